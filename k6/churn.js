// A storm of short visits: connect, wait for `ready`, push to oneself over HTTP, receive, close, come again.
//
// `ready` is a promise that the user can be reached from every node, so the push goes out at once and, half of the
// time, into another node. Each VU is one user and comes back as soon as it has left: the late goodbye of the old
// connection must not take the new one's row away.

import exec from 'k6/execution';
import { check, sleep } from 'k6';
import { Inbox, isOnline, newRun, nodeUrls, openConnection, pushAsync, settings, storm, userName, within } from './lib.js';

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
  const visit = exec.scenario.iterationInTest;
  const home = nodeUrls[visit % nodeUrls.length];
  const entry = nodeUrls[Math.floor(visit / nodeUrls.length) % nodeUrls.length];
  inbox = inbox || new Inbox(run, user);

  let arrived;
  const arrival = new Promise((resolve) => (arrived = resolve));
  const connection = openConnection(home, user, {
    protocol: true,
    onData: (push) => {
      inbox.take(push);
      if (push && push.seq === visit) arrived(true);
    },
  });
  const ready = await within(config.drain, connection.opened);
  if (!check(ready, { 'connection is ready, for its own user': (r) => Boolean(r) && r.user === user })) {
    connection.giveUp();
    connection.close();
    return;
  }
  await pushAsync(config, entry, run, { user }, visit);
  await within(config.drain, arrival);
  await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
  connection.close();
  // The node's side of the close is part of the visit: leaving earlier would let two visits of one user overlap.
  await within(config.drain, connection.closed);
}

// Nobody is connected any more, and within seconds every node must know it.
export function teardown(run) {
  const deadline = Date.now() + 1000 * config.drain;
  for (let vu = 1; vu <= config.users; vu += 1) {
    const user = userName(run, vu);
    let online = isOnline(nodeUrls[0], user);
    while (online !== false && Date.now() < deadline) {
      sleep(0.1);
      online = isOnline(nodeUrls[0], user);
    }
    check(online, { 'a user who left is offline': () => online === false });
  }
}
