// Runs the site's own search, as a browser does, and prints the best hits of each query as JSON.
//
//     node search.mjs SITE QUERY...

import fs from "node:fs";
import path from "node:path";
import vm from "node:vm";

const [site, ...queries] = process.argv.slice(2);

const element = () => ({ dataset: {}, appendChild: () => element(), addEventListener: () => {} });
const sandbox = {
  console,
  DOCUMENTATION_OPTIONS: { BUILDER: "html", FILE_SUFFIX: ".html", LINK_SUFFIX: ".html" },
  document: {
    readyState: "loading",
    documentElement: { dataset: { content_root: "./" } },
    addEventListener: () => {},
    createElement: element,
    getElementById: () => null,
  },
  SPHINX_HIGHLIGHT_ENABLED: false,
  _: (text) => text,
  _ready: () => {},
  _removeChildren: () => {},
};
sandbox.window = sandbox;
vm.createContext(sandbox);
for (const name of [
  "_static/base-stemmer.js",
  "_static/english-stemmer.js",
  "_static/language_data.js",
  "_static/searchtools.js",
  "searchindex.js",
]) {
  const file = path.join(site, name);
  if (fs.existsSync(file)) vm.runInContext(fs.readFileSync(file, "utf-8"), sandbox, { filename: name });
}

const found = {};
for (const query of queries) {
  sandbox.query = query;
  const results = vm.runInContext(
    "Search._performSearch(...Search._parseQuery(query))",
    sandbox,
  );
  // The page shows them from the end.
  found[query] = results.reverse().slice(0, 5).map((hit) => [hit[0], hit[1], hit[4]]);
}
console.log(JSON.stringify(found));
