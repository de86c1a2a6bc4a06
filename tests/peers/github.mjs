// GitHub, as far as an App sees it: installation tokens for a JWT of the App, narrowed to permissions and repositories, and an API
// that holds requests to what their token was given. As in docs.github.com, "Generating a JSON Web Token (JWT) for a GitHub App",
// "Generating an installation access token for a GitHub App" and "REST API endpoints for GitHub App installations". JWTs are verified
// by jose.
//
// Of the App the client ID is APP, the installation INSTALLATION; it may read and write contents, and read issues, of `api` and
// `web`. Tokens live LIFE seconds. KEY and OTHER_KEY are where it writes the App's private key, and one that is not the App's.
//
//     PORT=... LIFE=20 APP=Iv23liPeers INSTALLATION=42 KEY=app.pem OTHER_KEY=other.pem node github.mjs

import { createPublicKey, generateKeyPairSync, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import { jwtVerify } from 'jose';

const { PORT, LIFE, APP, INSTALLATION, KEY, OTHER_KEY } = process.env;
const PERMISSIONS = { contents: 'write', issues: 'read' };
const REPOSITORIES = ['api', 'web'];
const LEVELS = ['read', 'write', 'admin'];

// As GitHub gives it to whoever made the App: PKCS #1.
const encoding = { publicKeyEncoding: { type: 'spki', format: 'pem' }, privateKeyEncoding: { type: 'pkcs1', format: 'pem' } };
const pair = (file) => {
  const made = generateKeyPairSync('rsa', { modulusLength: 2048, ...encoding });
  fs.writeFileSync(file, made.privateKey, { mode: 0o600 });
  return made.publicKey;
};
const publicKey = createPublicKey(pair(KEY));
pair(OTHER_KEY);

const tokens = new Map();
const seen = { asked: [], refused: [], voided: 0 };

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const bearer = (request) => {
  const [scheme, token] = (request.headers.authorization ?? '').split(' ');
  if (scheme.toLowerCase() !== 'bearer' || !token) throw new Refusal(401, 'Requires authentication');
  return token;
};

// RS256, `iss`, an `iat` that is not ahead of time, and an `exp` that is ten minutes ahead at most.
const prove = async (request) => {
  const now = Math.floor(Date.now() / 1000);
  const options = { algorithms: ['RS256'], issuer: APP, requiredClaims: ['iss', 'iat', 'exp'] };
  const { payload } = await jwtVerify(bearer(request), publicKey, options).catch((error) => {
    throw new Refusal(401, `A JSON web token could not be decoded: ${error.code}`);
  });
  if (payload.iat > now) throw new Refusal(401, "'Issued at' claim ('iat') must be an Integer representing a time in the past");
  if (payload.exp > now + 600) throw new Refusal(401, "'Expiration time' claim ('exp') is too far in the future");
  if (payload.exp - payload.iat > 600) throw new Refusal(401, "'Expiration time' claim ('exp') is too far in the future");
};

const covers = (granted, wanted) => LEVELS.indexOf(granted) >= LEVELS.indexOf(wanted) && LEVELS.includes(wanted);

const issue = (wish) => {
  seen.asked.push(wish);
  const permissions = wish.permissions ?? PERMISSIONS;
  const repositories = wish.repositories ?? REPOSITORIES;
  if (!Object.entries(permissions).every(([name, level]) => covers(PERMISSIONS[name], level))) {
    throw new Refusal(422, 'The permissions requested are not granted to this installation.');
  }
  if (!repositories.every((name) => REPOSITORIES.includes(name))) {
    throw new Refusal(422, 'There is at least one repository that does not exist or is not accessible to the parent installation.');
  }
  const token = `ghs_${randomBytes(27).toString('base64url').replaceAll(/[-_]/g, 'x')}`;
  const granted = { ...permissions, metadata: 'read' };
  const ends = new Date(Math.floor(Date.now() / 1000 + Number(LIFE)) * 1000);
  tokens.set(token, { permissions: granted, repositories, ends });
  const answer = { token, expires_at: ends.toISOString().replace('.000Z', 'Z'), permissions: granted };
  if (!wish.repositories) return { ...answer, repository_selection: 'all' };
  return { ...answer, repository_selection: 'selected', repositories: repositories.map((name) => ({ name })) };
};

const grant = (request) => {
  const found = tokens.get(bearer(request));
  if (!found || found.ends <= new Date()) throw new Refusal(401, 'Bad credentials');
  return found;
};

const use = (request, name, rest) => {
  const { permissions, repositories } = grant(request);
  if (!repositories.includes(name)) throw new Refusal(404, 'Not Found');
  const wanted = rest.startsWith('issues') ? 'issues' : 'contents';
  const level = request.method === 'GET' ? 'read' : 'write';
  if (!covers(permissions[wanted], level)) throw new Refusal(403, 'Resource not accessible by integration');
  return { name, by: wanted };
};

const body = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  return text ? JSON.parse(text) : {};
};

const answer = async (request) => {
  const path = request.url.split('?')[0];
  const [, , name, rest] = path.match(/^\/repos\/([^/]+)\/([^/]+)\/(.+)$/) ?? [];
  if (path === '/peers/seen') return [200, { ...seen, live: tokens.size }];
  if (path === `/app/installations/${INSTALLATION}/access_tokens` && request.method === 'POST') {
    const wish = await body(request);
    await prove(request);
    return [201, issue(wish)];
  }
  if (path === '/installation/token' && request.method === 'DELETE') {
    grant(request);
    tokens.delete(bearer(request));
    seen.voided += 1;
    return [204];
  }
  if (path === '/rate_limit') return [200, { rate: grant(request) && {} }];
  if (name) return [200, use(request, name, rest)];
  throw new Refusal(404, 'Not Found');
};

const serve = async (request, response) => {
  let status, said;
  try {
    [status, said] = await answer(request);
  } catch (error) {
    [status, said] = [error.status ?? 500, { message: error.message }];
    if (request.url.startsWith('/app/')) seen.refused.push(`${status} ${error.message}`);
  }
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8' });
  response.end(said === undefined ? undefined : JSON.stringify(said));
};

// Each route of a proxy has an authority of its own.
for (const own of [1, 2, 3, 4]) http.createServer(serve).listen(Number(PORT), `127.0.0.${own}`);
