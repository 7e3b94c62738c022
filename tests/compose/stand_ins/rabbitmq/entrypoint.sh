#!/bin/sh
set -eu
export HOME=/var/lib/rabbitmq
chown rabbitmq /var/lib/rabbitmq
exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups /usr/lib/rabbitmq/bin/rabbitmq-server
