// Broadcasts (`to: {all: true}`): each connection on each node gets each of them exactly once, in order.
//
// Every user has two connections, so that a node which delivers once a user, not once a connection, is caught.
// The cluster must be otherwise quiet: somebody else's broadcast would be counted as misrouted.

import exec from 'k6/execution';
import { Inbox, holdAndPush, holdConnections, newRun, nodeUrls, push, settings, userName } from './lib.js';

const CONNECTIONS_PER_USER = 2;

const config = settings({
  smoke: { users: 50, connectionsPerUser: CONNECTIONS_PER_USER, rate: 10, duration: '3s' },
  load: { users: 5000, connectionsPerUser: CONNECTIONS_PER_USER, rate: 1, duration: '60s' },
});
// One pusher, which waits for each answer before the next broadcast: two would race, and no order could be expected.
config.pushers = 1;

export const options = holdAndPush(config, { thresholds: { pushes_out_of_order: ['count==0'] } });

export const setup = newRun;

export function connections(run) {
  holdConnections(config, (index) => ({
    // With two nodes or more the two connections of a user are on different ones.
    nodeUrl: nodeUrls[index % nodeUrls.length],
    user: userName(run, Math.floor(index / CONNECTIONS_PER_USER)),
    // Order is promised per publisher, and here each node publishes its turn.
    inbox: new Inbox(run, '*', { publishers: nodeUrls.length }),
  }));
}

export function pushes(run) {
  const seq = exec.scenario.iterationInTest;
  push(config, nodeUrls[seq % nodeUrls.length], run, { all: true }, seq, config.connections);
}
