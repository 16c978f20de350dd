// Users on the first of NODE_URLS, pushes into the others only: every push must cross from node to node.
//
// Two URLs may lead to one node (a load balancer, a typing mistake), and then the run would prove nothing. So each
// node is asked for its id first, and the cluster must say that the users are on the first.

import exec from 'k6/execution';
import { check } from 'k6';
import { Inbox, holdAndPush, holdConnections, newRun, nodeId, nodeUrls, push, settings, userName, whereIs } from './lib.js';

const config = settings({
  smoke: { users: 40, rate: 100, duration: '3s', pushers: 10 },
  load: { users: 10000, rate: 2000, duration: '60s', pushers: 50 },
});
const [home, ...others] = nodeUrls;

export const options = holdAndPush(config, {
  // The probes of setup() are connections too.
  connections: config.users + nodeUrls.length,
});

export function setup() {
  if (others.length === 0) throw new Error('crossnode.js needs two nodes or more in NODE_URLS');
  const run = newRun();
  const ids = [];
  for (const url of nodeUrls) ids.push(nodeId(url, run, ids.length));
  if (ids.indexOf(ids[0], 1) !== -1) throw new Error(`pushes would not leave the node: NODE_URLS are ${ids.join(', ')}`);
  return { run, homeId: ids[0] };
}

export function connections({ run, homeId }) {
  const describe = (index) => ({
    nodeUrl: home,
    user: userName(run, index),
    protocol: true,
    inbox: new Inbox(run, userName(run, index), {
      number: (seq) => (seq % config.users === index ? Math.floor(seq / config.users) : undefined),
    }),
  });
  // One user for each receiver: all share one URL, so more would only cost time.
  const sample = userName(run, exec.scenario.iterationInTest);
  holdConnections(config, describe, () => {
    check(whereIs(others[0], sample).connections || [], {
      'user is on the first node': (rows) => rows.length === 1 && rows[0].node === homeId,
    });
  });
}

export function pushes({ run }) {
  const seq = exec.scenario.iterationInTest;
  push(config, others[seq % others.length], run, { user: userName(run, seq % config.users) }, seq);
}
