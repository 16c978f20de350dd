<?php

// Carries out what stands on each line of its input, and prints the answers: see the test.
require __DIR__ . '/../Pushnode.php';

$redis = new Redis();
$redis->connect('127.0.0.1', (int) $argv[1]);
$publisher = new Pushnode($redis, receipts: ['address' => "tcp://127.0.0.1:$argv[1]"]);
while ($line = fgets(STDIN)) {
    [$method, $to, $data, $options] = json_decode($line, true);
    $began = microtime(true);
    try {
        $answer = $publisher->$method($to, $data, $options);
    } catch (Exception $error) {
        $answer = ['error' => $error->getMessage()];
    }
    echo json_encode($answer + ['took' => microtime(true) - $began]), "\n";
}
