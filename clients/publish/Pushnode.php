<?php

/**
 * Pushes to the users of pushnode by Redis alone. One file: copy it. It needs PHP 8.1 and the
 * extension `redis`.
 *
 *     $publisher = new Pushnode($redis);
 *     $publisher->push('42', ['text' => 'hello']);               // ['status' => 'routed', ...]
 *     $publisher->push(['topic' => 'news'], 'hello', ['event' => 'news.new']);
 *     $publisher->keep('42', ['text' => 'you have mail']);       // also for users who are away
 *
 * Receipts come on a connection of their own, as a PHP client that subscribes can do nothing else:
 *
 *     $publisher = new Pushnode($redis, receipts: ['address' => 'tcp://127.0.0.1:6379']);
 *     $publisher->push('42', 'hello', ['wait' => 'written']);
 */
final class Pushnode
{
    /** Microseconds between two looks at a row whose node did not take the push. */
    private const PAUSE = 50_000;

    private readonly string $channels;
    private readonly string $me;
    private bool $isChecked = false;
    /** @var resource|null */
    private $inbox = null;

    /**
     * @param Redis $redis without a prefix for keys
     * @param string $prefix the nodes' `PUSH_PREFIX`
     * @param int $database the number in the nodes' `PUSH_REDIS_URL`
     * @param array{address?: string, username?: string, password?: string, context?: array} $receipts
     */
    public function __construct(
        private readonly Redis $redis,
        private readonly string $prefix = 'pn:',
        int $database = 0,
        private readonly array $receipts = [],
        string $name = 'publisher',
    ) {
        if ($redis->getOption(Redis::OPT_PREFIX)) {
            throw new InvalidArgumentException('pushnode needs a connection to Redis without a prefix');
        }
        $this->channels = $prefix . ($database ? "$database:" : '');
        $this->me = $name . '.' . bin2hex(random_bytes(8));
    }

    /**
     * Pushes to a user's id, or to `['topic' => ...]`, `['fd' => ...]` or `['all' => true]`.
     *
     * Options: `id`, `wait` (`routed`, `written` or `acked`), `timeout` (seconds, 3 by default), and
     * the fields of an envelope `event`, `policy` and `except`. The answer has `status`, `id`,
     * `nodes` (how many took it) and `connections` (how many are proven). The status is one of
     * `routed`, `written`, `acked`, `duplicate`, `offline` and `unrouted`: a node that holds the
     * user could not be reached. Repeat an `unrouted` one with the same `id`.
     *
     * @return array{status: string, id: string, nodes: int, connections: int}
     */
    public function push(string|array $to, mixed $data, array $options = []): array
    {
        $this->check();
        $to = is_string($to) ? ['user' => $to] : $to;
        $wait = $options['wait'] ?? 'routed';
        $timeout = $options['timeout'] ?? 3.0;
        $id = $options['id'] ?? bin2hex(random_bytes(12));
        unset($options['wait'], $options['timeout'], $options['id']);
        $envelope = ['to' => $to, 'data' => $data, 'id' => $id] + $options;
        $ref = bin2hex(random_bytes(8));
        if ($wait !== 'routed') {
            $envelope['reply'] = ['node' => $this->me, 'ref' => $ref, 'wait' => $wait,
                'timeout_ms' => max(1, (int) ($timeout * 1000))];
            $this->listen();
        }
        $line = self::json($envelope);
        $deadline = microtime(true) + $timeout;

        $took = [];
        if (isset($to['all'])) {
            $expected = (int) $this->redis->publish($this->channels . 'g', $line);
            $unreached = false;
        } else {
            $unreached = $this->offer($to, $line, $took, $deadline);
            $expected = count($took);
        }
        $receipts = [];
        $hasLookedAgain = false;
        // A node answers by the deadline at the latest; its answer takes a moment.
        while ($wait !== 'routed' && count($receipts) < $expected && microtime(true) < $deadline + 0.5) {
            foreach ($this->receipts($ref, $deadline + 0.5) as $receipt) {
                $receipts[$receipt['node']] = $receipt;
                if ($receipt['status'] === 'stale' && !isset($to['all']) && !$hasLookedAgain) {
                    $hasLookedAgain = true; // the user has moved
                    $unreached = $this->offer($to, $line, $took, $deadline) || $unreached;
                    $expected = count($took);
                }
            }
        }
        $said = array_column($receipts, 'status');
        $nodes = $expected - count(array_keys($said, 'stale', true));
        $known = array_values(array_intersect(['acked', 'written', 'routed', 'duplicate'], $said));
        $status = $known[0] ?? 'routed';
        if ($nodes === 0) {
            $status = $unreached ? 'unrouted' : 'offline';
        } elseif (count($receipts) < $expected && $status === 'duplicate') {
            $status = 'routed';
        }
        $connections = array_sum(array_column($receipts, 'connections'));
        return ['status' => $status, 'id' => $id, 'nodes' => $nodes, 'connections' => $connections];
    }

    /**
     * Keeps a message in a user's inbox, or in a topic's log, and tells the nodes.
     *
     * Options: `id`, `event`, and as on the nodes `messages` (`PUSH_KEEP_MESSAGES`) and `seconds`
     * (`PUSH_KEEP_SECONDS`).
     *
     * @return array{status: string, id: string}
     */
    public function keep(string|array $to, mixed $data, array $options = []): array
    {
        $this->check();
        $to = is_string($to) ? ['user' => $to] : $to;
        $tag = '{' . ($to['topic'] ?? self::inKey($to['user'])) . '}';
        [$log, $position] = isset($to['topic']) ? ["log:$tag", "logpos:$tag"] : ["inbox:$tag", "pos:$tag"];
        [$log, $position] = [$this->prefix . $log, $this->prefix . $position];
        $entry = ['id' => $options['id'] ?? bin2hex(random_bytes(12)), 'data' => self::json($data)];
        if (isset($options['event'])) {
            $entry['event'] = $options['event'];
        }
        $seconds = $options['seconds'] ?? 86400;
        // Number and entry in one MULTI; the first number is one that no earlier log had.
        $this->redis->multi();
        $this->redis->setnx($position, (string) (random_int(1, 2 ** 26 - 1) << 36));
        $this->redis->incr($position);
        $this->redis->xadd($log, '*', $entry, $options['messages'] ?? 1000, true);
        $this->redis->expire($log, $seconds);
        $this->redis->expire($position, 2 * $seconds);
        if (!($this->redis->exec()[2] ?? false)) {
            throw new RuntimeException('Redis: ' . ($this->redis->getLastError() ?? 'nothing was kept'));
        }
        $this->redis->publish($this->channels . 'g', self::json(['to' => $to, 'keep' => true]));
        return ['status' => 'stored', 'id' => $entry['id']];
    }

    /**
     * Opens a session for a user: the text to connect with as a token.
     *
     * @param list<string>|null $topics patterns that it may subscribe to; null: the nodes' own
     */
    public function session(string $user, int $seconds, ?array $topics = null): string
    {
        $token = rtrim(strtr(base64_encode(random_bytes(32)), '+/', '-_'), '=');
        $claims = ['sub' => $user] + ($topics === null ? [] : ['topics' => $topics]);
        $this->redis->setex($this->prefix . 'session:' . hash('sha256', $token), $seconds, self::json($claims));
        return $token;
    }

    /** In a Redis Cluster channels are sharded, and 0 receivers prove nothing. */
    private function check(): void
    {
        if ($this->isChecked) {
            return;
        }
        try {
            if (is_int($this->redis->rawCommand('CLUSTER', 'KEYSLOT', $this->prefix))) {
                throw new LogicException('this is a Redis Cluster: push by HTTP there (POST /v1/push)');
            }
            $this->redis->clearLastError(); // switched off
        } catch (RedisException $error) {
            // Not allowed to us; a connection that fails is another matter.
            if (!str_contains($error->getMessage(), 'cluster')) {
                throw $error;
            }
        }
        $this->isChecked = true;
    }

    /** Publishes to each node that has not taken it. Whether one could not be reached. */
    private function offer(array $to, string $line, array &$took, float $deadline): bool
    {
        $missing = [];
        while (true) {
            $isOpen = false;
            foreach ($this->nodes($to) as $node) {
                if (isset($took[$node])) {
                    continue;
                }
                // 0 proves that no node has it. In a Redis Cluster it proves nothing.
                if ($this->redis->publish($this->channels . "n:{{$node}}", $line)) {
                    $took[$node] = true;
                } elseif (!$this->isGone($node, $missing)) {
                    $isOpen = true;
                }
            }
            if (!$isOpen || microtime(true) > $deadline) {
                return $isOpen;
            }
            usleep(self::PAUSE);
        }
    }

    /** @return list<string> */
    private function nodes(array $to): array
    {
        $node = fn (string $connection) => substr($connection, 0, strrpos($connection, '/'));
        if (isset($to['fd'])) {
            return [$node($to['fd'])];
        }
        if (isset($to['topic'])) {
            return $this->redis->hkeys($this->prefix . "topic:{{$to['topic']}}");
        }
        $user = self::inKey($to['user']);
        return array_unique(array_map($node, $this->redis->hkeys($this->prefix . "user:{{$user}}")));
    }

    /** Its name has started again, or it has had no lease at two looks. */
    private function isGone(string $node, array &$missing): bool
    {
        $dot = strrpos($node, '.');
        $lease = $this->redis->get($this->prefix . 'node:' . substr($node, 0, $dot));
        if ($lease) {
            return json_decode($lease, true)['boot'] !== substr($node, $dot + 1);
        }
        $missing[$node] = ($missing[$node] ?? 0) + 1;
        return $missing[$node] > 1;
    }

    private function listen(): void
    {
        if ($this->inbox) {
            return;
        }
        $address = $this->receipts['address'] ?? throw new LogicException('give `receipts` an address');
        $context = stream_context_create($this->receipts['context'] ?? []);
        $this->inbox = stream_socket_client($address, $code, $error, 3.0, STREAM_CLIENT_CONNECT, $context)
            ?: throw new RuntimeException("no connection to Redis for receipts: $error");
        if (isset($this->receipts['password'])) {
            $login = array_filter([$this->receipts['username'] ?? null, $this->receipts['password']]);
            $this->ask('AUTH', ...$login);
        }
        $this->ask('SUBSCRIBE', $this->channels . "n:{{$this->me}}");
    }

    private function ask(string ...$words): void
    {
        $parts = array_map(fn (string $word) => '$' . strlen($word) . "\r\n$word\r\n", $words);
        fwrite($this->inbox, '*' . count($words) . "\r\n" . implode('', $parts));
        $this->read(microtime(true) + 3.0);
    }

    /** The receipts of the next payload. A payload has several lines; a node's first is its header. */
    private function receipts(string $ref, float $deadline): array
    {
        $message = $this->read($deadline);
        $lines = is_array($message) ? array_filter(explode("\n", $message[2])) : [];
        $objects = array_map(fn (string $line) => json_decode($line, true), $lines);
        return array_filter($objects, fn ($one) => ($one['cmd'] ?? '') === 'receipt' && $one['ref'] === $ref);
    }

    /** One answer of Redis; null if none has come by then. */
    private function read(float $deadline): mixed
    {
        $left = max(1, (int) (($deadline - microtime(true)) * 1e6));
        stream_set_timeout($this->inbox, intdiv($left, 1_000_000), $left % 1_000_000);
        $line = fgets($this->inbox);
        if ($line === false) {
            if (!feof($this->inbox)) {
                return null;
            }
            $this->inbox = null;
            throw new RuntimeException('Redis has closed the connection for receipts');
        }
        $size = (int) substr($line, 1);
        return match ($line[0]) {
            '*' => array_map(fn () => $this->read($deadline), range(1, $size)),
            '$' => substr((string) stream_get_contents($this->inbox, $size + 2), 0, $size),
            '-' => throw new RuntimeException('Redis: ' . trim($line)),
            default => trim(substr($line, 1)),
        };
    }

    /** A user's id as it stands in keys. */
    private static function inKey(string $user): string
    {
        return strtr(rawurlencode($user), ['%3A' => ':', '%40' => '@']);
    }

    private static function json(mixed $value): string
    {
        return json_encode($value, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);
    }
}
