// The feed: pushes a price of each symbol, again and again.
//
//   node feed.mjs [milliseconds between prices] [rounds]
const node = process.env.PUSHNODE ?? "http://127.0.0.1:8080";
const [pause = "500", rounds = "Infinity"] = process.argv.slice(2);
const prices = { EUR: 1.08, GBP: 1.27, JPY: 0.0067 };

for (let round = 1; round <= Number(rounds); round++) {
  const pushes = Object.entries(prices).map(([symbol, price]) => ({
    to: { topic: `price.${symbol}` },
    data: { symbol, price: price * (0.99 + Math.random() / 50), round },
  }));
  await fetch(`${node}/v1/push`, {
    method: "POST",
    headers: { "content-type": "application/x-ndjson" },
    body: pushes.map((push) => JSON.stringify(push)).join("\n"),
  });
  await new Promise((resolve) => setTimeout(resolve, Number(pause)));
}
