// Caches the page's files, so that it works without a network after the first visit.
// The browser keeps one cache storage for all pages of a site.
const OWN = `keras-apinet-${self.registration.scope}-`;
const CACHE = `${OWN}@FINGERPRINT@`;
const FILES = @FILES@;

/** Fetches what is not cached yet, bypassing older files in the browser's own cache. */
async function keep(names) {
  const cache = await caches.open(CACHE);
  const found = await Promise.all(names.map((name) => cache.match(name, { ignoreSearch: true })));
  const missing = names.filter((name, i) => !found[i]);
  await cache.addAll(missing.map((name) => new Request(name, { cache: "reload" })));
}

self.addEventListener("install", (event) => {
  event.waitUntil(keep(FILES));
});
self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith(OWN) && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});
// The runtime has a variant for each kind of browser; only what was used is cached.
self.addEventListener("message", (event) => {
  event.waitUntil(keep(event.data));
});
self.addEventListener("fetch", (event) => {
  event.respondWith((async () => {
    const cache = await caches.open(CACHE);
    const found = await cache.match(event.request, { ignoreSearch: true });
    return isolated(found ?? await fetch(event.request));
  })());
});

/** Browsers allow threads only on isolated pages, which these headers declare. */
function isolated(response) {
  if (response.type !== "basic" && response.type !== "default") return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  const { status, statusText } = response;
  return new Response(status === 204 || status === 304 ? null : response.body, { status, statusText, headers });
}
