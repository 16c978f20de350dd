// The tests run what is published, so they need `npm run build` first; `npm test` does both.
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const dist = (name: string) => fileURLToPath(new URL(`dist/${name}`, import.meta.url));

export default defineConfig({
  resolve: {
    alias: [
      { find: "pushnode-js/ws", replacement: dist("ws.js") },
      { find: "pushnode-js/react", replacement: dist("react.js") },
      { find: "pushnode-js", replacement: dist("index.js") },
    ],
  },
  test: {
    include: ["test/**/*.test.ts"],
    setupFiles: ["test/setup.ts"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Tests mostly wait: for a node to start, for a pause to end.
    maxWorkers: 4,
    minWorkers: 1,
  },
});
