<?php

use Illuminate\Broadcasting\Broadcasters\Broadcaster;
use Illuminate\Broadcasting\Broadcasters\UsePusherChannelConventions;
use Symfony\Component\HttpKernel\Exception\AccessDeniedHttpException;

/**
 * Laravel's events over pushnode. One file, beside Pushnode.php: copy both, and register it:
 *
 *     Broadcast::extend('pushnode', fn ($app, $config) => new PushnodeBroadcaster(
 *         new Pushnode($app['redis']->connection('pushnode')->client())));
 *
 * The connection of Redis named `pushnode` needs `'prefix' => ''` in its options. A channel is the
 * topic of the same name, except `private-<users><id>`, which is user `<id>` wherever connected.
 */
final class PushnodeBroadcaster extends Broadcaster
{
    use UsePusherChannelConventions;

    /**
     * @param string $users what a user's own channel begins with
     * @param int $seconds how long a token of `auth` lives
     */
    public function __construct(
        private readonly Pushnode $pushnode,
        private readonly string $users = 'App.Models.User.',
        private readonly int $seconds = 3600,
    ) {
    }

    /**
     * Checks `channel_names` (or `channel_name`) of a request by routes/channels.php. The answer is a
     * session of pushnode for these channels: the token that the page connects with.
     */
    public function auth($request)
    {
        $channels = array_values((array) ($request->channel_names ?? $request->channel_name ?? []));
        foreach ($channels as $channel) {
            // A pattern would open the channels of others.
            if (!is_string($channel) || !preg_match('/^[A-Za-z0-9._:@=,;-]{1,200}$/D', $channel)) {
                throw new AccessDeniedHttpException();
            }
            if ($this->isGuardedChannel($channel)) {
                $name = $this->normalizeChannelName($channel);
                $this->retrieveUser($request, $name) ?? throw new AccessDeniedHttpException();
                $this->verifyUserCanAccessChannel($request, $name);
            }
        }
        $user = $request->user() ?? throw new AccessDeniedHttpException();
        $id = (string) (method_exists($user, 'getAuthIdentifierForBroadcasting')
            ? $user->getAuthIdentifierForBroadcasting()
            : $user->getAuthIdentifier());
        $token = $this->pushnode->session($id, $this->seconds, $channels);
        return ['token' => $token, 'user' => $id, 'expires_in' => $this->seconds];
    }

    /** Of one channel, for the Broadcaster. */
    public function validAuthenticationResponse($request, $result)
    {
        return $result;
    }

    /** `toOthers()` leaves the connection out that the page sent as `X-Socket-ID`. */
    public function broadcast(array $channels, $event, array $payload = [])
    {
        $options = ['event' => $event];
        if (!empty($payload['socket'])) {
            $options['except'] = ['fds' => [$payload['socket']]];
        }
        unset($payload['socket']);
        foreach ($this->formatChannels($channels) as $channel) {
            $own = 'private-' . $this->users;
            $to = str_starts_with($channel, $own)
                ? ['user' => substr($channel, strlen($own))]
                : ['topic' => $channel];
            $this->pushnode->push($to, $payload, $options);
        }
    }
}
