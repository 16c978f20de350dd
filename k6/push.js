// Pushes to connected users, over any mix of nodes: each arrives exactly once, at the right user.
//
// Users are spread over all NODE_URLS, and so are the pushes, so that every user is reached both from its own node and
// from the others, as behind a load balancer.

import exec from 'k6/execution';
import { Inbox, holdAndPush, holdConnections, newRun, nodeUrls, push, settings, userName } from './lib.js';

const config = settings({
  smoke: { users: 40, rate: 100, duration: '3s', pushers: 10 },
  load: { users: 10000, rate: 2000, duration: '60s', pushers: 50 },
});

export const options = holdAndPush(config);

export const setup = newRun;

export function connections(run) {
  holdConnections(config, (index) => ({
    nodeUrl: nodeUrls[index % nodeUrls.length],
    user: userName(run, index),
    // Push number `seq` goes to user `seq % users`, known here without a word from the pusher: a payload whose user
    // and number disagree is caught even when it reached the user it names.
    inbox: new Inbox(run, userName(run, index), {
      number: (seq) => (seq % config.users === index ? Math.floor(seq / config.users) : undefined),
    }),
  }));
}

export function pushes(run) {
  const seq = exec.scenario.iterationInTest;
  const user = seq % config.users;
  const round = Math.floor(seq / config.users);
  push(config, nodeUrls[(user + round) % nodeUrls.length], run, { user: userName(run, user) }, seq);
}
