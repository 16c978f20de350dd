// Handlers by event. A handler that throws stops neither the others nor the client.

export type Handler = (...args: any[]) => void;

export interface Emitter {
  on(event: string, handler: Handler): () => void;
  /** True if a handler threw; undefined if there is none. */
  _emit(event: string, ...args: unknown[]): boolean | undefined;
}

export function createEmitter(fail: (error: unknown) => void): Emitter {
  const handlers: Record<string, Set<[Handler]>> = {};
  return {
    on(event, handler) {
      // In a box, so that a handler that was added twice is taken off once.
      const box: [Handler] = [handler];
      const all = (handlers[event] ??= new Set());
      all.add(box);
      return () => all.delete(box);
    },
    _emit(event, ...args) {
      let isBad: boolean | undefined;
      for (const [handler] of [...(handlers[event] ?? [])]) {
        isBad ??= false;
        try {
          handler(...args);
        } catch (error) {
          isBad = true;
          fail(error);
        }
      }
      return isBad;
    },
  };
}
