// oidc-provider with the clients and keys that its one argument, a JSON file, names: the client credentials grant and
// introspection, on http and, for clients with a certificate, on https.
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import Provider from 'oidc-provider';

const given = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const read = (name) => fs.readFileSync(given.tls[name]);

const provider = new Provider(given.issuer, {
  clients: given.clients,
  scopes: given.scopes,
  responseTypes: [],
  ttl: { ClientCredentials: given.lifetime },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'tls_client_auth'],
  enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'RS384', 'PS256', 'ES256', 'ES384'] },
  discovery: { mtls_endpoint_aliases: { token_endpoint: `${given.tls.origin}/token` } },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: (_context, client) => client.clientId === given.api },
    mTLS: {
      enabled: true,
      tlsClientAuth: true,
      getCertificate: (context) => context.socket.getPeerX509Certificate?.(),
      certificateAuthorized: (context) => context.socket.authorized === true,
      certificateSubjectMatches: (context, _property, expected) =>
        context.socket.getPeerX509Certificate().subject === expected,
    },
  },
});

const serve = provider.callback();
const certificates = { key: read('key'), cert: read('certificate'), ca: read('ca') };
https
  .createServer({ ...certificates, requestCert: true, rejectUnauthorized: false }, serve)
  .listen(given.tls.port, '127.0.0.1', () => http.createServer(serve).listen(given.port, '127.0.0.1'));
