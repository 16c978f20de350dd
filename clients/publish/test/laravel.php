<?php

// A Laravel application as far as broadcasting goes: one request of a page, and two events.
use Illuminate\Broadcasting\Channel;
use Illuminate\Broadcasting\PrivateChannel;

require 'Illuminate/Broadcasting/autoload.php';
require 'Illuminate/Container/autoload.php';
require __DIR__ . '/../Pushnode.php';
require __DIR__ . '/../PushnodeBroadcaster.php';

if (!class_exists('Symfony\Component\HttpKernel\Exception\AccessDeniedHttpException')) {
    // Of the framework; Debian has it in a package of its own.
    eval('namespace Symfony\Component\HttpKernel\Exception; class AccessDeniedHttpException extends \Exception {}');
}

$redis = new Redis();
$redis->connect('127.0.0.1', (int) $argv[1]);
$broadcaster = new PushnodeBroadcaster(new Pushnode($redis));
$broadcaster->channel('orders.{id}', fn ($user, $id) => $user->getAuthIdentifier() === (int) $id);

function request(?int $user, array $channels): object
{
    $user = $user === null ? null : new class ($user) {
        public function __construct(private int $id)
        {
        }

        public function getAuthIdentifier(): int
        {
            return $this->id;
        }
    };
    return new class ($user, $channels) {
        public function __construct(private ?object $user, public array $channel_names)
        {
        }

        public function user(): ?object
        {
            return $this->user;
        }
    };
}

while ($line = fgets(STDIN)) {
    [$what, $arguments] = json_decode($line, true);
    if ($what === 'auth') {
        try {
            $answer = $broadcaster->auth(request(...$arguments));
        } catch (Exception $error) {
            $answer = ['error' => get_class($error)];
        }
        echo json_encode($answer), "\n";
    } else {
        [$socket] = $arguments;
        $broadcaster->broadcast([new Channel('news')], 'NewsWritten', ['title' => 'one']);
        $broadcaster->broadcast([new PrivateChannel('orders.7')], 'OrderPaid', ['n' => 1, 'socket' => $socket]);
        $broadcaster->broadcast([new PrivateChannel('App.Models.User.7')], 'Told', ['n' => 2, 'socket' => null]);
        echo "{}\n";
    }
}
