// Handlers by event. A handler that throws stops neither the others nor the client.

export type Handler = (...args: any[]) => void;

export interface Emitter {
  on(event: string, handler: Handler): () => void;
  /** False if a handler threw. */
  emit(event: string, ...args: unknown[]): boolean;
  hears(event: string): boolean;
}

export function createEmitter(fail: (error: unknown) => void): Emitter {
  const handlers: Record<string, Set<Handler>> = {};
  return {
    on(event, handler) {
      // A wrapper, so that a handler that was added twice is taken off once.
      const one: Handler = (...args) => handler(...args);
      (handlers[event] ??= new Set()).add(one);
      return () => handlers[event]!.delete(one);
    },
    emit(event, ...args) {
      let isFine = true;
      for (const handler of [...(handlers[event] ?? [])]) {
        try {
          handler(...args);
        } catch (error) {
          isFine = false;
          fail(error);
        }
      }
      return isFine;
    },
    hears: (event) => handlers[event]?.size! > 0,
  };
}
