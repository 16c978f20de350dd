// What `connect` was given, with the defaults that types.ts names.

export const {
  backoff: { min = 500, max = 20_000, stable = 5_000 } = {},
  events: page = globalThis.window as any,
  queue: room = 100,
  resume: memory,
  timeout = 10_000,
  token: source,
} = options;
