// The shop: places an order for a user, and tells each change of it.
//
//   node shop.mjs <user> <order> [milliseconds between changes]
const node = process.env.PUSHNODE ?? "http://127.0.0.1:8080";
const [user = "ann", order = "1", pause = "1000"] = process.argv.slice(2);

for (const change of ["placed", "paid", "shipped"]) {
  // Kept, so that a page which is away gets it later; its id, so that a repeat is dropped.
  const push = { to: { user }, keep: true, event: `order.${change}`, id: `order-${order}-${change}` };
  const answer = await fetch(`${node}/v1/push`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...push, data: { order } }),
  });
  console.log(change, (await answer.json()).status);
  await new Promise((resolve) => setTimeout(resolve, Number(pause)));
}
