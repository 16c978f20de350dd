// The connection that is kept: one loop that opens a line, holds it to its end, and pauses. Only
// `hold` opens lines, and it ends when its line has ended, so there are never two. What a line
// says after its end is not heard.

import { watchPage } from "./page.js";
import { pauseBefore } from "./time.js";
import { createTokens, type Tokens } from "./token.js";
import type { End, Frame, Line, Transport, Wish } from "./transport.js";
import type { Closed, Options, State } from "./types.js";

/** After these, connecting again does not help (PROTOCOL.md, close codes). */
const FINAL = [1002, 1007, 1008, 1009, 4001, 4005, 4006, 4400, 4403, 4409];
/** Our own end of a line, to connect again without a pause. */
const AGAIN = 0;
/** Silence that an older node, which tells no `beat_ms`, may keep. */
const DEFAULT_BEAT = 25_000;
/** Beyond a beat of silence: 7 s, then a question that has 3 s. */
const SLACK = 7_000;
const PROBE = 3_000;
/** How long an ended line may take to close before the next one opens all the same. */
const GONE = 1_000;
/** After so long over another transport, the first is tried again. */
const CLIMB = 300_000;
/** So many failures in a row, and the transport that worked is no longer the only one tried. */
const DOUBT = 3;

/** What the link is part of. */
export interface Owner {
  wish(): Omit<Wish, "url" | "token">;
  /** The first frame of a line. False: this line must not be used; connect again. */
  ready(frame: Frame): boolean;
  frame(frame: Frame): void;
  /** The line that was `ready` has ended. */
  lost(): void;
  state(state: State, why?: Closed | { retryIn: number }): void;
  error(error: unknown): void;
}

export interface Link {
  state: State;
  closed?: Closed;
  /** The line, once it is `ready`. */
  line?: Line;
  /** The node speaks protocol 1.1. */
  isModern?: boolean;
  tokens: Tokens;
  say(object: object): void;
  /** Opens another line in place of this one. */
  again(): void;
  close(why: Closed): void;
}

export function createLink(
  url: string,
  options: Options,
  ladder: Transport[],
  owner: Owner,
): Link {
  const timeout = options.timeout ?? 10_000;
  let gone: Promise<void> | undefined; // of the last line
  let cut: ((end: End) => void) | undefined; // ends the line, `ready` or not
  let wake: () => void = () => {}; // ends the pause
  let probe: () => void = () => {};
  let tries = 0;
  let best = -1; // the transport that was last `ready`
  let bestSince = 0;
  let isBlocked = false; // a transport fails where the next one works

  const become = (now: State, why?: Closed | { retryIn: number }) => {
    link.state = now;
    owner.state(now, why);
  };

  const close = (why: Closed) => {
    if (link.closed) return;
    link.closed = why;
    page.stop();
    cut?.({ code: AGAIN });
    wake();
    become("closed", why);
  };

  const page = watchPage(
    options.events,
    () => {
      wake();
      probe();
    },
    () => cut?.({ code: AGAIN }),
  );

  /** Ends at `wake` at the latest. */
  const pause = (ms?: number) =>
    new Promise<void>((resolve) => {
      const timer = ms === undefined ? undefined : setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  /** Opens a line, and ends when it has ended. */
  const hold = (rung: number) =>
    new Promise<End & { wasReady?: boolean }>((resolve) => {
      let isOver = false;
      let readyAt = 0;
      let heardAt = 0;
      let beat = DEFAULT_BEAT;
      let timer: ReturnType<typeof setTimeout>;
      let leave!: () => void;
      const ended = new Promise<void>((resolve) => (leave = resolve));

      const end = (how: End) => {
        if (isOver) return;
        isOver = true;
        clearTimeout(timer);
        probe = () => {};
        cut = undefined;
        if (link.line) {
          link.line = undefined;
          if (Date.now() - readyAt >= (options.backoff?.stable ?? 5_000)) tries = 0;
          owner.lost();
        }
        opened.close();
        const limit = setTimeout(leave, GONE);
        gone = ended.then(() => clearTimeout(limit));
        const { code, reason, retryMs, told } = how;
        resolve({ code, reason, retryMs, told, wasReady: readyAt > 0 });
      };
      const listen = (ms: number) => {
        timer = setTimeout(() => {
          const left = heardAt + beat + SLACK - Date.now();
          if (left > 0) listen(left);
          else probe();
        }, ms);
      };
      // A page that was frozen has not read what came, so it asks before it gives up.
      const ask = () => {
        if (!heardAt) return; // asked already
        clearTimeout(timer);
        heardAt = 0;
        link.say({ type: "ping" });
        timer = setTimeout(() => {
          if (heardAt) listen(beat);
          else end({ code: 1006, reason: "silence" });
        }, PROBE);
      };
      const begin = (frame: Frame) => {
        clearTimeout(timer);
        readyAt = Date.now();
        // The network may have come back between the two. Then the first one works, too.
        if (rung && best !== rung && !isBlocked) {
          isBlocked = true;
          return end({ code: AGAIN });
        }
        isBlocked = false;
        link.line = opened;
        if (best !== rung) bestSince = readyAt;
        best = rung;
        if (frame.beat_ms > 0) {
          link.isModern = true;
          beat = frame.beat_ms;
        }
        listen(beat);
        probe = ask;
        if (!owner.ready(frame)) return end({ code: AGAIN });
        become("connected");
      };

      let opened: Line;
      try {
        opened = ladder[rung]!(
          { url, token: link.tokens.value, ...owner.wish() },
          {
            heard: () => (heardAt = Date.now()),
            frame(frame) {
              if (isOver) return;
              heardAt = Date.now();
              const { type, code, reason, error, retry_ms: retryMs } = frame;
              if (type === "bye") end({ code, reason: error ?? reason, retryMs, told: true });
              else if (type === "ready") begin(frame);
              else if (type === "ping") link.say({ type: "pong" });
              else if (readyAt) owner.frame(frame);
            },
            end(how) {
              leave();
              end(how);
            },
          },
          options,
        );
      } catch (error) {
        // An address, or a token, that a WebSocket cannot have: it would never have it.
        return resolve({ code: 4400, reason: String(error), told: true });
      }
      timer = setTimeout(() => end({ code: 1006, reason: "timeout" }), timeout);
      cut = end;
    });

  /** One try: the transports in turn, until one was `ready` or the node refuses. */
  const attempt = async () => {
    if (best > 0 && Date.now() - bestSince > CLIMB) best = -1;
    const isSure = best >= 0 && tries < DOUBT;
    for (let rung = isSure ? best : 0; ; rung++) {
      await gone;
      const end: Awaited<ReturnType<typeof hold>> = link.closed ? { code: AGAIN } : await hold(rung);
      const isLast = isSure || !ladder[rung + 1];
      if (isLast || end.wasReady || end.told || end.code === AGAIN) return end;
      isBlocked ||= end.reason === "timeout";
    }
  };

  /** The pause after this end; none if the client is closed now. */
  const judge = ({ code, reason = "", retryMs, told, wasReady }: Awaited<ReturnType<typeof hold>>) => {
    const isKnown = told || wasReady;
    const isRefused = code === 4401;
    if (isKnown && (FINAL.includes(code) || (isRefused && link.tokens.isFixed))) {
      return close({ code, reason });
    }
    if (code === AGAIN) return 0;
    if (isRefused || code === 4004) {
      link.tokens.drop(isRefused ? "refused" : "expired");
      if (!tries++) return 0;
    } else {
      // An older node's refusal looks like a network that fails.
      if (!isKnown && !link.isModern) link.tokens.drop("connect");
      tries++;
    }
    return pauseBefore(tries - 1, retryMs, options.backoff);
  };

  const live = async () => {
    // What the application does right after `connect` is part of the first request.
    await null;
    while (!link.closed) {
      let retryIn: number | void = undefined;
      if (page.isAway()) {
        await pause();
        continue;
      }
      try {
        await link.tokens.prepare();
        if (link.closed || page.isAway()) continue;
        const end = await attempt();
        if (!link.closed) retryIn = judge(end);
      } catch (error) {
        if (link.closed) return;
        owner.error(error);
        retryIn = pauseBefore(tries++, undefined, options.backoff);
      }
      if (link.closed) return;
      become("reconnecting", { retryIn: retryIn! });
      if (retryIn && !page.isAway()) await pause(retryIn);
    }
  };

  const link: Link = {
    state: "connecting",
    tokens: createTokens(options.token, timeout, close),
    say: (object) => link.line?.send?.(JSON.stringify(object)),
    again: () => cut?.({ code: AGAIN }),
    close,
  };
  live();
  return link;
}
