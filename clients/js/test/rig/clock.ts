// A clock that the test moves, for many timers: those of vitest are searched one by one, which
// takes minutes with ten thousand clients.

interface Timer {
  at: number;
  n: number;
  run?: () => void;
}

export class Clock {
  private heap: Timer[] = [];
  private count = 0;
  private now = 1_000_000;
  private real = { setTimeout, clearTimeout, now: Date.now };

  constructor() {
    globalThis.setTimeout = ((run: (...words: any[]) => void, ms = 0, ...words: unknown[]) => {
      const timer = { at: this.now + ms, n: this.count++, run: () => run(...words) };
      this.add(timer);
      return timer;
    }) as any;
    globalThis.clearTimeout = ((timer?: Timer) => {
      if (timer) timer.run = undefined;
    }) as any;
    Date.now = () => this.now;
  }

  restore() {
    globalThis.setTimeout = this.real.setTimeout;
    globalThis.clearTimeout = this.real.clearTimeout;
    Date.now = this.real.now;
  }

  /** Runs what is due by then, and what follows from it, in steps of so many milliseconds. */
  async advance(ms: number, step = 0) {
    const end = this.now + ms;
    await new Promise(setImmediate);
    while (this.heap.length && this.heap[0]!.at <= end) {
      const last = Math.min(end, this.heap[0]!.at + step);
      while (this.heap.length && this.heap[0]!.at <= last) {
        const timer = this.take();
        this.now = Math.max(this.now, timer.at);
        timer.run?.();
      }
      await new Promise(setImmediate); // promises
    }
    this.now = end;
  }

  private before = (a: Timer, b: Timer) => a.at < b.at || (a.at === b.at && a.n < b.n);

  private swap(a: number, b: number) {
    [this.heap[a], this.heap[b]] = [this.heap[b]!, this.heap[a]!];
  }

  private add(timer: Timer) {
    const { heap } = this;
    let at = heap.push(timer) - 1;
    for (let up; at > 0 && this.before(timer, heap[(up = (at - 1) >> 1)]!); at = up) this.swap(at, up);
  }

  private take(): Timer {
    const { heap } = this;
    const first = heap[0]!;
    const last = heap.pop()!;
    if (!heap.length) return first;
    heap[0] = last;
    for (let at = 0; ; ) {
      let least = at;
      for (const down of [2 * at + 1, 2 * at + 2]) {
        if (down < heap.length && this.before(heap[down]!, heap[least]!)) least = down;
      }
      if (least === at) return first;
      this.swap(at, least);
      at = least;
    }
  }
}
