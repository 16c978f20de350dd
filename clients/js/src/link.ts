// The connection that is kept: one loop that opens a line, holds it to its end, and pauses. Only
// `hold` opens lines, and it ends when its line has ended, so there are never two. What a line
// says after its end is not heard.

import type { Core } from "./core.js";
import { watchPage } from "./page.js";
import { addToken } from "./token.js";
import type { End, Frame, Line, Transport } from "./transport.js";
import { type Closed, PushError, type State } from "./types.js";

/** After these, connecting again does not help (PROTOCOL.md, close codes). */
const FINAL = /100[2789]|400[156]|440[039]/;
/** Our own end of a line, to connect again without a pause. */
const AGAIN = 0;
/** Silence where the node's heartbeats are off. */
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

/** A line that was not `ready` in time; what is slow may be blocked. */
const TIMEOUT = STREAMS ? "timeout" : undefined;

const nothing = () => {};

export function addLink(core: Core, ladder: Transport[]) {
  const { timeout = 10_000, events = globalThis.window as EventTarget | undefined, backoff = {} } = core._options;
  const { min = 500, max = 20_000, stable = 5_000 } = backoff;
  const life = new AbortController();
  let gone: Promise<void> | undefined; // of the last line
  let cut: (end: End) => void = nothing; // ends the line, `ready` or not
  let wake = nothing; // ends the pause, or asks whether the line is alive
  let wasReady = false; // this line, or the last one
  let tries = 0;
  let best = -1; // the transport that was last `ready`
  let bestSince = 0;
  let isBlocked = false; // a transport fails where the next one works

  const become = (state: State, why?: Closed | { retryIn: number }) => {
    core.state = state;
    core._emit("state", state, why);
  };
  core._say = (object) => core._line?.send?.(JSON.stringify(object));
  core._again = () => cut({ code: AGAIN });
  core._close = (why) => {
    if (core._closed) return;
    core._closed = new PushError("closed", why.reason);
    life.abort();
    core._again();
    wake();
    core._endRequests("closed");
    core._endTopics(core._closed);
    become("closed", why);
  };
  const token = addToken(core, timeout);
  const isAway = watchPage(
    events,
    life.signal,
    () => wake(),
    core._again,
  );

  /** Opens a line, and ends when it has ended. */
  const hold = (rung: number) =>
    new Promise<End>((resolve) => {
      let opened: Line;
      let isOver = false;
      let isAsked = false;
      let readyAt = 0;
      let beat: number;
      let timer: ReturnType<typeof setTimeout>;
      let leave!: () => void;
      gone = new Promise<void>((resolve) => (leave = resolve));
      wasReady = false;

      const after = (ms: number, then: () => void) => {
        clearTimeout(timer);
        timer = setTimeout(then, ms);
      };
      const end = (how: End) => {
        if (isOver) return;
        isOver = true;
        cut = wake = nothing;
        if (core._line) {
          core._line = undefined;
          if (Date.now() - readyAt >= stable) tries = 0;
          core._lost();
        }
        after(GONE, leave);
        opened.close();
        resolve(how);
      };
      // A page that was frozen has not read what came, so it asks before it gives up.
      const ask = () => {
        if (isAsked) return;
        isAsked = true;
        core._say({ type: "ping" });
        after(PROBE, () => end({ code: 1006 }));
      };
      const heard = () => {
        if (isOver || !wasReady) return;
        isAsked = false;
        after(beat + SLACK, ask);
      };
      const begin = (frame: Frame) => {
        wasReady = true;
        readyAt = Date.now();
        if (STREAMS) {
          // The network may have come back between the two. Then the first one works, too.
          if (rung && best !== rung && !isBlocked) {
            isBlocked = true;
            return core._again();
          }
          isBlocked = false;
          if (best !== rung) bestSince = readyAt;
          best = rung;
        }
        core._line = opened;
        beat = frame.beat_ms || DEFAULT_BEAT;
        wake = ask;
        if (core._ready(frame)) core._again();
        else become("connected");
      };
      const hear = (frame: Frame) => {
        if (isOver) return;
        if (frame.type === "bye") end(frame as Frame & End);
        else if (frame.type === "ready") begin(frame);
        else core._frame(frame);
        heard();
      };

      try {
        opened = ladder[rung]!(
          core,
          hear,
          (how) => {
            end(how);
            clearTimeout(timer);
            leave();
          },
          heard,
        );
      } catch (error) {
        // An address, or a token, that a WebSocket cannot have: it would never have it.
        leave();
        return resolve({ code: 4400, reason: String(error), type: "bye" });
      }
      after(timeout, () => end({ code: 1006, reason: TIMEOUT }));
      cut = end;
    });

  /** One try: the transports in turn, until one was `ready` or the node refuses. */
  const attempt = async (): Promise<End> => {
    if (!STREAMS) {
      await gone;
      return core._closed ? { code: AGAIN } : hold(0);
    }
    if (best > 0 && Date.now() - bestSince > CLIMB) best = -1;
    const isSure = best >= 0 && tries < DOUBT;
    for (let rung = isSure ? best : 0; ; rung++) {
      await gone;
      const end = core._closed ? { code: AGAIN } : await hold(rung);
      const isLast = isSure || !ladder[rung + 1];
      if (isLast || wasReady || end.type === "bye" || end.code === AGAIN) return end;
      isBlocked ||= end.reason === TIMEOUT;
    }
  };

  /**
   * The pause after this end; none if the client is closed now. What the node asked for is spread
   * by a quarter; otherwise full jitter over a range that doubles, so that clients that were cut
   * off together come back apart.
   */
  const judge = ({ type, code, error, reason = "", retry_ms: retryMs }: End) => {
    const isKnown = type === "bye" || wasReady;
    const isRefused = code === 4401;
    if (isKnown && (FINAL.test(code as any) || (isRefused && core._isFixed))) {
      core._close({ code, reason: error ?? reason });
    } else if (code !== AGAIN) {
      const n = tries++;
      if (isRefused || code === 4004) {
        token._drop(isRefused ? "refused" : "expired");
        if (!n) return 0;
      }
      return retryMs
        ? retryMs * (1 + Math.random() / 4)
        : min + Math.random() * Math.min(max, min * 2 ** n);
    }
    return 0;
  };

  /** Ends at `wake` at the latest. */
  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = isAway() ? undefined : setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  (async () => {
    // What the application does right after `connect` is part of the first request.
    await null;
    for (let retryIn = 0; !core._closed; ) {
      if (retryIn || isAway()) {
        await pause(retryIn);
        retryIn = 0;
        continue;
      }
      let end: End = { code: 1006 };
      try {
        await token._prepare();
        if (core._closed || isAway()) continue;
        end = await attempt();
      } catch (error) {
        if (core._closed) return;
        core._fail(error); // no token
      }
      retryIn = judge(end);
      if (!core._closed) become("reconnecting", { retryIn });
    }
  })();
}
