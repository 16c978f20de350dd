// A service that receives what clients send: the few commands of Redis that it takes.
import { createConnection, type Socket } from "node:net";
import { atEnd, type Redis } from "./process.js";

/** Sends commands, and reads the answers one by one. */
class Connection {
  private rest = Buffer.alloc(0);
  private wake = () => {};
  private constructor(private socket: Socket) {
    socket.on("data", (data) => {
      this.rest = Buffer.concat([this.rest, data]);
      this.wake();
    });
    socket.on("error", () => {});
  }

  static open({ url }: Redis): Promise<Connection> {
    return new Promise((resolve) => {
      const socket = createConnection(+new URL(url).port, "127.0.0.1", () => resolve(new Connection(socket)));
      atEnd(() => socket.destroy());
    });
  }

  async ask(...words: string[]): Promise<any> {
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    this.socket.write(`*${words.length}\r\n${parts.join("")}`);
    // Answers come in order, and are read one after the other.
    const answer = this.last.then(() => this.read());
    this.last = answer;
    return answer;
  }

  private last: Promise<unknown> = Promise.resolve();

  private async line(): Promise<string> {
    let end;
    while ((end = this.rest.indexOf("\r\n")) < 0) await this.more();
    const line = this.rest.subarray(0, end).toString();
    this.rest = this.rest.subarray(end + 2);
    return line;
  }

  private more = () => new Promise<void>((resolve) => (this.wake = resolve));

  private async read(): Promise<any> {
    const line = await this.line();
    const size = +line.slice(1);
    if (line[0] === "*") {
      if (size < 0) return null;
      const all: unknown[] = [];
      for (let at = 0; at < size; at++) all.push(await this.read());
      return all;
    }
    if (line[0] !== "$") return line.slice(1);
    if (size < 0) return null;
    while (this.rest.length < size + 2) await this.more();
    const text = this.rest.subarray(0, size).toString();
    this.rest = this.rest.subarray(size + 2);
    return text;
  }
}

export interface Task {
  ref?: string;
  data: any;
  reply(data: unknown): Promise<unknown>;
}

/** Calls back for each entry of the service's stream, in order. */
export async function startService(redis: Redis, service: string, work: (task: Task) => unknown) {
  const [reader, writer] = [await Connection.open(redis), await Connection.open(redis)];
  const stream = `pn:upstream:${service}`;
  await reader.ask("XGROUP", "CREATE", stream, "g", "0", "MKSTREAM");
  (async () => {
    for (;;) {
      const answer = await reader.ask(
        ..."XREADGROUP GROUP g one BLOCK 0 COUNT 100 STREAMS".split(" "),
        stream,
        ">",
      );
      for (const [id, fields] of answer?.[0]?.[1] ?? []) {
        const entry: Record<string, string> = {};
        for (let at = 0; at < fields.length; at += 2) entry[fields[at]] = fields[at + 1];
        const ref = entry.ref && JSON.parse(entry.ref);
        await writer.ask("XACK", stream, "g", id);
        const reply = (data: unknown) => {
          const node = entry.from!.split("/")[0]!;
          const line = { cmd: "reply", to: { fd: entry.from }, ref, data };
          return writer.ask("PUBLISH", `pn:n:{${node}}`, JSON.stringify(line));
        };
        work({ ref, data: JSON.parse(entry.data!), reply });
      }
    }
  })();
}
