// Writes docs/javascript-reference.md from the types in src: each method and hook with its errors,
// each option with its default. `npm run reference`; a test says when the file is older than they.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const here = dirname(fileURLToPath(import.meta.url));
export const written = join(here, "../../docs/javascript-reference.md");

/** What the reference has of each file, in this order; methods have sections of their own. */
const PARTS = [
  ["index.ts", ["connect"]],
  ["types.ts", ["Options", "Client", "Events", "Message", "Closed"]],
  ["types.ts", ["TopicOptions", "Topic", "TopicEvents", "Presence", "HistoryOptions", "PastMessage"]],
  ["types.ts", ["Author", "PublishOptions", "SendOptions", "Sent", "PushError", "Unauthorized"]],
  ["react.ts", ["Push", "usePush", "useTopic", "useLatest", "usePresence", "useConnection"]],
];

const tagsOf = (node, name) =>
  ts.getJSDocTags(node).filter(({ tagName }) => tagName.text === name);
const commentOf = ({ comment }) => ts.getTextOfJSDocComment(comment)?.trim() ?? "";
const oneLine = (text) => text.replace(/\s+/g, " ").trim();
const cell = (text) => oneLine(text).replaceAll("|", "\\|");

function textOf(node) {
  const docs = ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc);
  const text = docs.map(commentOf).join(" ");
  return oneLine(text).replace(/\{@link (\w+)\}/g, "`$1`");
}

function wrapped(text) {
  const lines = [""];
  for (const word of oneLine(text).split(" ")) {
    if (lines.at(-1).length + word.length > 98) lines.push("");
    lines.push(`${lines.pop()} ${word}`.trimStart());
  }
  return lines.join("\n");
}

/** Without what only the compiler needs. */
const shown = (text) =>
  oneLine(text)
    .replace(/^(export |declare |readonly )+/, "")
    .replace(/^function /, "")
    .replace(/;$/, "");

function rows(members) {
  const hasDefaults = members.some((member) => tagsOf(member, "default").length);
  const heads = hasDefaults ? ["name", "type", "default", "meaning"] : ["name", "type", "meaning"];
  const lines = [`| ${heads.join(" | ")} |`, `| ${heads.map(() => "---").join(" | ")} |`];
  for (const member of members) {
    const name = member.name.getText().replace(/^"|"$/g, "");
    const type = member.type.getText();
    const [given] = tagsOf(member, "default");
    const value = given ? commentOf(given) : "";
    const isCode = /^["\d{[]|^(true|false|window)$/.test(value);
    const cells = [`\`${name}\``, `\`${cell(type)}\``];
    if (hasDefaults) cells.push(isCode ? `\`${value}\`` : value);
    lines.push(`| ${[...cells, cell(textOf(member))].join(" | ")} |`.replaceAll("|  |", "| |"));
  }
  return lines.join("\n");
}

function method(node, title) {
  const lines = [`### ${title}`, "", "```ts", signature(node), "```", ""];
  const text = textOf(node);
  if (text) lines.push(wrapped(text), "");
  const errors = tagsOf(node, "throws").map((tag) => oneLine(commentOf(tag)).split(" - "));
  if (errors.length) {
    lines.push("| rejects with | when |", "| --- | --- |");
    for (const [code, when] of errors) lines.push(`| \`${code}\` | ${cell(when)} |`);
    lines.push("");
  }
  return lines.join("\n");
}

function signature(node) {
  const whole = node.getText();
  const text = node.body ? whole.slice(0, node.body.getStart() - node.getStart()) : whole;
  const line = shown(text);
  if (line.length <= 96) return line;
  const margin = ts.isMethodSignature(node) ? /^ {2}/gm : /^$/;
  return text.replace(/^export (declare )?function /, "").replace(/;$/, "").replace(margin, "").trim();
}

function section(node) {
  const name = node.name.text;
  if (ts.isFunctionDeclaration(node)) return method(node, name);
  const lines = [`## ${name}`, ""];
  const text = textOf(node);
  if (text) lines.push(wrapped(text), "");
  const values = node.members.filter((one) => ts.isPropertySignature(one) || ts.isPropertyDeclaration(one));
  if (values.length) lines.push(rows(values), "");
  const owner = name[0].toLowerCase() + name.slice(1);
  const seen = new Set();
  for (const one of node.members.filter(ts.isMethodSignature)) {
    const title = `${owner}.${one.name.text}`;
    lines.push(method(one, seen.has(title) ? `${title}, by name` : title));
    seen.add(title);
  }
  return lines.join("\n");
}

export function reference() {
  const parts = [
    "# Reference of `pushnode-js`",
    "",
    wrapped(`[From the browser](javascript.md) is the guide. This page is made from the types of the
      package by \`npm run reference\` in \`clients/js\`. A promise that rejects does so with a
      \`PushError\` of one of the codes listed, or of the [protocol](../PROTOCOL.md#error-codes-in-objects).`),
    "",
  ];
  for (const [file, names] of PARTS) {
    const text = readFileSync(join(here, "src", file), "utf8");
    const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true);
    const found = new Map();
    source.forEachChild((node) => {
      if (node.name) found.set(node.name.text, node);
    });
    if (file === "react.ts") parts.push("## Hooks of `pushnode-js/react`", "");
    if (file === "index.ts") parts.push("## Connecting", "");
    for (const name of names) {
      if (!found.has(name)) throw new Error(`${file} has no ${name}`);
      parts.push(section(found.get(name)).trimEnd(), "");
    }
  }
  return parts.join("\n").trimEnd() + "\n";
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(written, reference());
