// The issuer: oidc-provider, with two clients of the client credentials grant that differ in how they prove themselves.
// Access tokens are JWTs, signed with RS256, that live LIFE seconds. The signing key is kept in KEYS, so that the issuer is
// the same one after it was stopped and started.
//
//     PORT=... LIFE=5 KEYS=keys.json SECRET=... node oidc-provider.mjs

import fs from 'node:fs';
import { exportJWK, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';

const { PORT, LIFE, KEYS, SECRET } = process.env;
const SCOPES = 'api:read api:write';

if (!fs.existsSync(KEYS)) {
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const key = { ...(await exportJWK(privateKey)), kid: 'peers', alg: 'RS256', use: 'sig' };
  fs.writeFileSync(KEYS, JSON.stringify({ keys: [key] }), { mode: 0o600 });
}

const client = (client_id, token_endpoint_auth_method) => ({
  client_id,
  client_secret: SECRET,
  token_endpoint_auth_method,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  scope: SCOPES,
});

const provider = new Provider(`http://127.0.0.1:${PORT}`, {
  jwks: JSON.parse(fs.readFileSync(KEYS)),
  clients: [client('basic', 'client_secret_basic'), client('post', 'client_secret_post')],
  scopes: SCOPES.split(' '),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'https://api.example',
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: SCOPES,
        accessTokenFormat: 'jwt',
        accessTokenTTL: Number(LIFE),
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  ttl: { ClientCredentials: Number(LIFE) },
});

provider.on('server_error', (_, error) => console.error('server error:', error));
provider.on('grant.error', (_, error) => console.error('grant refused:', error.message, error.error_description ?? ''));

const server = provider.listen(Number(PORT), '127.0.0.1', () => console.log('listening'));
// Connections that are kept alive would keep a stopped issuer alive.
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeAllConnections();
});
