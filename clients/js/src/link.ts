// The connection that is kept: one loop that opens a line, holds it to its end, and pauses. Only
// `hold` opens lines, and it ends when its line has ended, so there are never two. What a line
// says after its end is not heard.

import { client, fail, hearReady, lost } from "./client.js";
import { become } from "./emitter.js";
import { isAway, life } from "./page.js";
import { answered, endRequests } from "./requests.js";
import { max, min, stable, timeout } from "./settings.js";
import { sse } from "./sse.js";
import { dropToken, isFixed, prepareToken } from "./token.js";
import { endTopics } from "./topics.js";
import { type End, type Frame, type Line, nothing } from "./transport.js";
import { type Closed, PushError } from "./types.js";
import { ws } from "./ws.js";

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

const ladder = STREAMS
  ? (options.transports ?? ["ws", "sse"]).map((name) => (name === "ws" ? ws : sse))
  : [];

/** Our own end of a line, to connect again without a pause. */
const AGAIN = 0;
const BROKEN: End = { code: 1006 };
/** A line that was not `ready` in time; what is slow may be blocked. */
const SLOW = { ...BROKEN };

/** The line, once it is `ready`; unless it takes no frames: then it is the stream. */
export let line: Line | undefined;
export let stream: Line | undefined;
let gone: Promise<void> | undefined; // of the last line
let cut: (end: End) => void = nothing; // ends the line, `ready` or not
/** Ends the pause, or asks whether the line is alive. */
export let wake = nothing;
let wasReady = false; // this line, or the last one
let tries = 0;
let best = -1; // the transport that was last `ready`
let bestSince = 0;
let rung = 0; // the transport that is tried
let isBlocked = false; // a transport fails where the next one works

export const say = (object: object) => line?.send!(JSON.stringify(object));
/** Opens another line in place of this one. */
export const again = () => cut({ code: AGAIN });
export const close = (why: Closed) => {
  if (client._ended) return;
  client._ended = new PushError("closed", why.reason);
  life.abort();
  again();
  wake();
  endRequests("closed");
  endTopics(client._ended);
  become(client, "closed", why);
};

/** Opens a line, and ends when it has ended. */
const hold = () =>
  new Promise<End>((resolve) => {
    let opened: Line;
    let readyAt = 0;
    let beat: number;
    let timer: ReturnType<typeof setTimeout>;
    let leave: () => void;
    wasReady = false;

    const after = (ms: number, then: (how: End) => void, how?: End) => {
      clearTimeout(timer);
      timer = setTimeout(then, ms, how);
    };
    const end = (how: End) => {
      if (cut !== end) return;
      cut = wake = nothing;
      if (line || (STREAMS && stream)) {
        line = undefined;
        if (STREAMS) stream = undefined;
        if (Date.now() - readyAt >= stable) tries = 0;
        lost();
      }
      after(GONE, leave);
      opened.close(1000);
      resolve(how);
    };
    // A page that was frozen has not read what came, so it asks before it gives up.
    const ask = () => {
      wake = nothing;
      say({ type: "ping" });
      after(PROBE, end, BROKEN);
    };
    const heard = () => {
      if (((STREAMS && stream) || line) !== opened) return;
      wake = ask;
      after(beat + SLACK, ask);
    };
    const hear = (frame: Frame) => {
      if (cut !== end) return;
      if (frame.type === "bye") end(frame as Frame & End);
      else if (frame.type === "ready") {
        wasReady = true;
        readyAt = Date.now();
        if (STREAMS) {
          // The network may have come back between the two. Then the first one works, too.
          if (rung && best !== rung && !isBlocked) {
            isBlocked = true;
            return again();
          }
          isBlocked = false;
          if (best !== rung) bestSince = readyAt;
          best = rung;
        }
        if (STREAMS && !opened.send) stream = opened;
        else line = opened;
        beat = frame.beat_ms || DEFAULT_BEAT;
        if (hearReady(frame)) again();
        else become(client, "connected");
      } else answered(frame);
      heard();
    };

    try {
      opened = (STREAMS ? ladder[rung]! : ws)(
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
      return resolve({ code: 4400, reason: String(error), type: "bye" });
    }
    gone = new Promise<void>((resolve) => (leave = resolve));
    after(timeout, end, STREAMS ? SLOW : BROKEN);
    cut = end;
  });

/**
 * The pause after this end; none if the client is closed now. What the node asked for is spread
 * by a quarter; otherwise full jitter over a range that doubles, so that clients that were cut
 * off together come back apart.
 */
const judge = ({ type, code, error, reason = "", retry_ms: retryMs }: End) => {
  const isKnown = type === "bye" || wasReady;
  const isRefused = code === 4401;
  // After these, connecting again does not help (PROTOCOL.md, close codes).
  if (isKnown && (/100[2789]|400[156]|440[039]/.test(code as any) || (isRefused && isFixed))) {
    close({ code, reason: error ?? reason });
  } else if (code) {
    const isOver = isRefused || code === 4004;
    if (isOver) dropToken(isRefused ? "refused" : "expired");
    const range = retryMs ? retryMs / 4 : Math.min(max, min * 2 ** tries);
    if (tries++ || !isOver) return (retryMs || min) + Math.random() * range;
  }
  return 0;
};

/** Ends at `wake` at the latest. */
const pause = (ms: number) =>
  new Promise<void>((resolve) => {
    const timer = isAway() ? 0 : setTimeout(resolve, ms);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });

/** One try: the transports in turn, until one was `ready` or the node refuses. */
const climb = async () => {
  if (best > 0 && Date.now() - bestSince > CLIMB) best = -1;
  const isSure = best >= 0 && tries < DOUBT;
  for (rung = isSure ? best : 0; ; rung++) {
    const end = await hold();
    const isLast = isSure || !ladder[rung + 1];
    if (isLast || wasReady || end.type === "bye" || end.code === AGAIN) return end;
    isBlocked ||= end === SLOW;
    await gone;
    if (client._ended) return end;
  }
};

(async () => {
  // What the application does right after `connect` is part of the first request.
  await null;
  for (let retryIn = 0; !client._ended; ) {
    if (retryIn || isAway()) {
      await pause(retryIn);
      retryIn = 0;
      continue;
    }
    let end = BROKEN;
    try {
      await prepareToken();
      await gone;
      if (client._ended || isAway()) continue;
      end = await (STREAMS ? climb() : hold());
    } catch (error) {
      if (client._ended) return;
      fail(error); // no token
    }
    retryIn = judge(end);
    if (!client._ended) become(client, "reconnecting", { retryIn });
  }
})();
