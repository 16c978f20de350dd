import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisURI;
import io.lettuce.core.SetArgs;
import io.lettuce.core.XAddArgs;
import io.lettuce.core.api.sync.RedisCommands;
import io.lettuce.core.cluster.RedisClusterClient;
import io.lettuce.core.cluster.SlotHash;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import java.nio.charset.StandardCharsets;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.regex.Pattern;

/** Publishes with nothing but Lettuce, as docs/redis.md tells, and prints what it hears. */
public class Publish {
    static final Pattern RECEIPT = Pattern.compile("\"status\":\"(\\w+)\",\"connections\":(\\d+)");

    /** A channel of our own to hear receipts on. */
    static final String ME = "pn:n:{lettuce.1}";
    static final CompletableFuture<String> RECEIVED = new CompletableFuture<>();

    /** A user id as it stands in a key. */
    static String quoted(String id) {
        var key = new StringBuilder();
        for (byte one : id.getBytes(StandardCharsets.UTF_8)) {
            boolean isPlain = one > 0 && (Character.isLetterOrDigit(one) || "._:@-~".indexOf(one) >= 0);
            key.append(isPlain ? String.valueOf((char) one) : String.format("%%%02X", one));
        }
        return key.toString();
    }

    static void hear(String payload) {
        // A payload holds several lines; a node's first line is its header.
        for (String line : payload.split("\n")) {
            var found = RECEIPT.matcher(line);
            if (line.contains("\"cmd\":\"receipt\"") && found.find()) {
                RECEIVED.complete("receipt " + found.group(1) + " " + found.group(2));
            }
        }
    }

    /** What the program asks, the same for all that Redis may be. */
    interface Door {
        Iterable<String> fields(String key);

        void toNode(String channel, String line);

        void toAll(String line);

        /** The server that has this key. */
        RedisCommands<String, String> server(String key);
    }

    static Door one(RedisURI address) {
        var client = RedisClient.create(address);
        var inbox = client.connectPubSub();
        inbox.addListener(new RedisPubSubAdapter<>() {
            @Override
            public void message(String channel, String payload) {
                hear(payload);
            }
        });
        inbox.sync().subscribe(ME);
        var commands = client.connect().sync();
        return new Door() {
            @Override
            public Iterable<String> fields(String key) {
                return commands.hkeys(key);
            }

            @Override
            public void toNode(String channel, String line) {
                commands.publish(channel, line);
            }

            @Override
            public void toAll(String line) {
                commands.publish("pn:g", line);
            }

            @Override
            public RedisCommands<String, String> server(String key) {
                return commands;
            }
        };
    }

    static Door cluster(RedisURI address) {
        var client = RedisClusterClient.create(address);
        var inbox = client.connectPubSub();
        inbox.addListener(new RedisPubSubAdapter<>() {
            @Override
            public void smessage(String channel, String payload) {
                hear(payload);
            }
        });
        inbox.sync().ssubscribe(ME);
        var connection = client.connect();
        var commands = connection.sync();
        return new Door() {
            @Override
            public Iterable<String> fields(String key) {
                return commands.hkeys(key);
            }

            @Override
            public void toNode(String channel, String line) {
                commands.spublish(channel, line);
            }

            @Override
            public void toAll(String line) {
                commands.publish("pn:g", line);
            }

            @Override
            public RedisCommands<String, String> server(String key) {
                // MULTI needs a connection to the server that has the keys.
                var server = client.getPartitions().getPartitionBySlot(SlotHash.getSlot(key));
                return connection.getConnection(server.getNodeId()).sync();
            }
        };
    }

    public static void main(String[] arguments) throws Exception {
        String mode = arguments[1], user = arguments[3];
        String[] address = arguments[2].split(":");
        int port = Integer.parseInt(address[1]);
        // Of a Redis, of a Sentinel, or of one node of a cluster.
        Door door = switch (mode) {
            case "cluster" -> cluster(RedisURI.create(address[0], port));
            case "sentinel" -> one(RedisURI.Builder.sentinel(address[0], port, "mymaster").build());
            default -> one(RedisURI.create(address[0], port));
        };

        // To the nodes of the user. A library for JSON would quote the user.
        String tag = "{" + quoted(user) + "}", to = "{\"to\":{\"user\":\"" + user + "\"},";
        Set<String> nodes = new HashSet<>();
        for (String field : door.fields("pn:user:" + tag)) {
            nodes.add(field.substring(0, field.lastIndexOf('/')));
        }
        String push = to + "\"id\":\"m1\",\"data\":\"to the node\",\"reply\":{\"node\":\"lettuce.1\",\"ref\":\"r1\"}}";
        for (String node : nodes) {
            door.toNode("pn:n:{" + node + "}", push);
        }
        System.out.println(RECEIVED.get());

        // To all nodes.
        door.toAll(to + "\"id\":\"m2\",\"data\":\"to all nodes\"}");

        // Kept in the inbox.
        var server = door.server("pn:pos:" + tag);
        server.multi();
        server.set("pn:pos:" + tag, "206158430208", SetArgs.Builder.nx());
        server.incr("pn:pos:" + tag);
        var entry = Map.of("id", "m3", "data", "\"kept\"");
        server.xadd("pn:inbox:" + tag, new XAddArgs().maxlen(1000).approximateTrimming(), entry);
        server.expire("pn:inbox:" + tag, 86400);
        server.expire("pn:pos:" + tag, 172800);
        if (server.exec().wasDiscarded()) {
            throw new IllegalStateException("not kept");
        }
        door.toAll(to + "\"keep\":true}");
        System.out.println("done");
        System.exit(0);
    }
}
