// The issuer: oidc-provider, with clients of the client credentials grant that differ in how they prove themselves.
// Access tokens are JWTs, signed with RS256, that live LIFE seconds. The signing key is kept in KEYS, so that the issuer is
// the same one after it was stopped and started. For the resource https://opaque.example they are opaque, live OPAQUE_LIFE seconds, and can be
// introspected and revoked.
//
// `dpop` gets tokens that are bound to a key, for proofs that hold a nonce. For `device` somebody signs in, under any name, on plain pages.
//
// On TLS_PORT it asks for client certificates, and takes those that CA has signed. CLIENT_KEY is the public key of `jwt`.
//
//     PORT=... LIFE=5 OPAQUE_LIFE=300 KEYS=keys.json SECRET=... TLS_PORT=... CA=... CERTIFICATE=... KEY=... CLIENT_KEY=... \
//         node oidc-provider.mjs

import { createPublicKey, randomBytes, X509Certificate } from 'node:crypto';
import fs from 'node:fs';
import https from 'node:https';
import { calculateJwkThumbprint, exportJWK, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';

const { PORT, LIFE, OPAQUE_LIFE, KEYS, SECRET, TLS_PORT, CA, CERTIFICATE, KEY, CLIENT_KEY } = process.env;
const SCOPES = 'api:read api:write';
const SIGN_IN = 'openid offline_access';
const OPAQUE = 'https://opaque.example';

if (!fs.existsSync(KEYS)) {
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const key = { ...(await exportJWK(privateKey)), kid: 'peers', alg: 'RS256', use: 'sig' };
  fs.writeFileSync(KEYS, JSON.stringify({ keys: [key] }), { mode: 0o600 });
}

const client = (client_id, token_endpoint_auth_method, proof = { client_secret: SECRET }) => ({
  client_id,
  token_endpoint_auth_method,
  ...proof,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  scope: SCOPES,
});

const jwk = createPublicKey(fs.readFileSync(CLIENT_KEY)).export({ format: 'jwk' });
const clients = [
  client('basic', 'client_secret_basic'),
  client('post', 'client_secret_post'),
  client('jwt', 'private_key_jwt', {
    jwks: { keys: [{ ...jwk, kid: await calculateJwkThumbprint(jwk), alg: 'ES256', use: 'sig' }] },
    token_endpoint_auth_signing_alg: 'ES256',
  }),
  client('dpop', 'client_secret_basic', { client_secret: SECRET, dpop_bound_access_tokens: true }),
  {
    ...client('device', 'client_secret_basic'),
    grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
    scope: `${SIGN_IN} ${SCOPES}`,
    application_type: 'native',
  },
  client('certificate', 'tls_client_auth', { tls_client_auth_san_dns: 'app.peers.test' }),
];

const presented = (ctx) => {
  const { raw } = ctx.socket.getPeerCertificate?.() ?? {};
  return raw && new X509Certificate(raw);
};

const provider = new Provider(`http://127.0.0.1:${PORT}`, {
  jwks: JSON.parse(fs.readFileSync(KEYS)),
  clients,
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'tls_client_auth'],
  scopes: `${SIGN_IN} ${SCOPES}`.split(' '),
  findAccount: (_, accountId) => ({ accountId, claims: async () => ({ sub: accountId }) }),
  features: {
    clientCredentials: { enabled: true },
    // The pages that somebody signs in on.
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    mTLS: {
      enabled: true,
      tlsClientAuth: true,
      getCertificate: presented,
      certificateAuthorized: (ctx) => ctx.socket.authorized === true,
      certificateSubjectMatches: (ctx, property, expected) =>
        property === 'tls_client_auth_san_dns' && presented(ctx).checkHost(expected) !== undefined,
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'https://api.example',
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) =>
        resource === OPAQUE
          ? { scope: SCOPES, accessTokenFormat: 'opaque', accessTokenTTL: Number(OPAQUE_LIFE) }
          : { scope: SCOPES, accessTokenFormat: 'jwt', accessTokenTTL: Number(LIFE), jwt: { sign: { alg: 'RS256' } } },
    },
  },
  ttl: { ClientCredentials: (_, token) => token.resourceServer?.accessTokenTTL ?? Number(LIFE) },
});

provider.on('server_error', (_, error) => console.error('server error:', error));
provider.on('grant.error', (_, { message, error_description = '', error_detail = '' }) => {
  console.error('grant refused:', message, error_description, error_detail);
});

const files = { ca: fs.readFileSync(CA), cert: fs.readFileSync(CERTIFICATE), key: fs.readFileSync(KEY) };
const asking = https.createServer({ ...files, requestCert: true, rejectUnauthorized: false }, provider.callback());
asking.listen(Number(TLS_PORT), '127.0.0.1');
const server = provider.listen(Number(PORT), '127.0.0.1', () => console.log('listening'));
// Connections that are kept alive would keep a stopped issuer alive.
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  for (const open of [server, asking]) open.closeAllConnections();
});
