"""``longshore`` as another machine would run it: ``python worker_on_another_machine.py MACHINE COMMAND...``"""

import sys
from functools import partial

from worker import app, cli

app.App = partial(app.App, machine=sys.argv.pop(1))
cli.main()
