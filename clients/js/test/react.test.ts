// The hooks, in React 18 and 19, in Strict Mode, against a real node.
import { build } from "esbuild";
import { JSDOM } from "jsdom";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { client, listening, startNode, startProxy, until } from "./rig/index.js";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The application with this React in it. */
async function load(version: string): Promise<typeof import("./rig/react-app.js")> {
  const suffix = version === "18" ? "-18" : "";
  const { outputFiles } = await build({
    entryPoints: [here("rig/react-app.ts")],
    bundle: true,
    write: false,
    format: "cjs",
    platform: "node",
    define: { "process.env.NODE_ENV": '"development"' },
    alias: {
      "pushnode-js/react": here("../dist/react.js"),
      react: here(`../node_modules/react${suffix}`),
      "react-dom": here(`../node_modules/react-dom${suffix}`),
    },
  });
  const module = { exports: {} as any };
  const run = new Function("module", "exports", "require", outputFiles[0]!.text);
  run(module, module.exports, createRequire(import.meta.url));
  return module.exports;
}

test.each(["18", "19"])("React %s in Strict Mode: one socket, one subscription", async (version) => {
  const dom = new JSDOM("<main></main>");
  const { document, navigator } = dom.window;
  // From version 21 on Node.js has a navigator of its own, which cannot be assigned.
  for (const [name, value] of Object.entries({ window: dom.window, document, navigator })) {
    Object.defineProperty(globalThis, name, { value, configurable: true });
  }
  try {
    const app = await load(version);
    const node = await startNode({ PUSH_PRESENCE_GRACE_SECONDS: "0" });
    const proxy = await startProxy(node.port);
    const { sent, WebSocket } = listening();
    const push = client(proxy.url, { events: null, WebSocket });
    await push.ready(); // so that each mount and unmount could be heard by the node
    const main = document.querySelector("main")!;
    const text = (selector: string) => main.querySelector(selector)?.textContent ?? "";
    const { render, end } = app.start(push, main);
    render("room");
    await until("it is connected", () => text("b") === "connected");
    await until("it knows the members", () => text("#room").endsWith("|42"));
    await node.push({ to: { topic: "room" }, data: "one" });
    await node.push({ to: { topic: "room" }, data: "two" });
    await until("both are shown", () => text("#room") === "42|one,two|two|42");
    expect(proxy.count).toBe(1);
    const asked = sent.filter(({ type }) => type.endsWith("subscribe"));
    expect(asked).toMatchObject([{ type: "subscribe", topic: "room", presence: true }]);

    // Its last user has gone: the topic is let go; another topic is another state.
    render("other");
    await until("it knows the members", () => text("#other") === "42|||42");
    await until("the node knows", async () => {
      return (await node.push({ to: { topic: "room" }, data: 3 })).status === "offline";
    });
    end();
    await until("and the other, too", async () => {
      return (await node.push({ to: { topic: "other" }, data: 3 })).status === "offline";
    });
    expect(push.state).toBe("connected");
    expect(app.onServer()).toContain("connecting");
    expect(app.onServer()).toContain("nothing yet");
  } finally {
    forget();
  }
});

function forget() {
  delete (globalThis as any).window;
  delete (globalThis as any).document;
  delete (globalThis as any).navigator;
}
