// A storm of short visits: connect, wait for `ready`, push to oneself over HTTP, receive, close, come again.
//
// `ready` is a promise that the user can be reached from every node, so the push goes out at once and, half of the
// time, into another node. Each VU is one user and comes back as soon as it has left: the late goodbye of the old
// connection must not take the new one's row away.

import exec from 'k6/execution';
import { check, sleep } from 'k6';
import { Inbox, newRun, nodeUrls, pushAsync, settings, storm, userName, visit, whereIs } from './lib.js';

// A second copy of a push follows closely on the first; closing at once would hide it.
const LINGER_MS = 100;

const config = settings({
  smoke: { users: 20, rate: 60, duration: '4s' },
  load: { users: 200, rate: 300, duration: '60s' },
});

export const options = storm(config);

export const setup = newRun;

// One for all visits of this VU's user, so that what a late push brings to the next visit is counted rightly.
let inbox;

export default async function (run) {
  const user = userName(run, exec.vu.idInTest);
  const seq = exec.scenario.iterationInTest;
  const home = nodeUrls[seq % nodeUrls.length];
  const entry = nodeUrls[Math.floor(seq / nodeUrls.length) % nodeUrls.length];
  inbox = inbox || new Inbox(run, user);

  let greeted = false;
  let answered;
  visit(home, user, {
    seconds: config.drain,
    onReady: (ready) => {
      greeted = ready.user === user;
      answered = pushAsync(config, entry, run, { user }, seq);
    },
    onData: (push, leave) => {
      // A copy in the visit of its own number came twice on one connection; in a later one it followed the user there.
      inbox.take(push, ` in visit ${seq} at ${home}`);
      if (push && push.seq === seq) leave(LINGER_MS);
    },
  });
  check(greeted, { 'connection is ready, for its own user': (yes) => yes });
  await answered;
}

// Nobody is connected any more, and within seconds every node must know it.
export function teardown(run) {
  const deadline = Date.now() + 1000 * config.drain;
  for (let vu = 1; vu <= config.users; vu += 1) {
    const user = userName(run, vu);
    let online = whereIs(nodeUrls[0], user).online;
    while (online !== false && Date.now() < deadline) {
      sleep(0.1);
      online = whereIs(nodeUrls[0], user).online;
    }
    check(online, { 'a user who left is offline': () => online === false });
  }
}
