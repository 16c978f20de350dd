// Publishes with nothing but go-redis, as docs/redis.md tells, and prints what it hears.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A user id as it stands in a key.
func quoted(id string) string {
	var key strings.Builder
	for _, byte := range []byte(id) {
		switch {
		case byte >= 'A' && byte <= 'Z', byte >= 'a' && byte <= 'z', byte >= '0' && byte <= '9',
			strings.IndexByte("._:@-~", byte) >= 0:
			key.WriteByte(byte)
		default:
			fmt.Fprintf(&key, "%%%02X", byte)
		}
	}
	return key.String()
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func text(object map[string]any) string {
	return string(must(json.Marshal(object)))
}

func main() {
	ctx := context.Background()
	// The address is of a Redis, of a Sentinel, or of one node of a cluster.
	mode, address, user := os.Args[2], os.Args[3], os.Args[4]
	var client redis.UniversalClient
	switch mode {
	case "standalone":
		client = redis.NewClient(&redis.Options{Addr: address})
	case "sentinel":
		client = redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "mymaster", SentinelAddrs: []string{address}})
	case "cluster":
		client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{address}})
	}

	// A channel of our own to hear receipts on.
	const me = "go-redis.1"
	subscribe, publish := client.Subscribe, client.Publish
	if mode == "cluster" {
		subscribe, publish = client.SSubscribe, client.SPublish
	}
	inbox := subscribe(ctx, "pn:n:{"+me+"}")
	must(inbox.Receive(ctx)) // subscribed

	// To the nodes of the user.
	tag := "{" + quoted(user) + "}"
	nodes := map[string]bool{}
	for _, field := range must(client.HKeys(ctx, "pn:user:"+tag).Result()) {
		nodes[field[:strings.LastIndex(field, "/")]] = true
	}
	to := map[string]any{"user": user}
	reply := map[string]any{"node": me, "ref": "r1"}
	push := text(map[string]any{"to": to, "id": "m1", "data": "to the node", "reply": reply})
	for node := range nodes {
		must(publish(ctx, "pn:n:{"+node+"}", push).Result())
	}
	heard := false
	for !heard {
		message := must(inbox.ReceiveMessage(ctx))
		// A payload holds several lines; a node's first line is its header.
		for line := range strings.SplitSeq(message.Payload, "\n") {
			var receipt struct {
				Cmd, Status string
				Connections int
			}
			json.Unmarshal([]byte(line), &receipt)
			if receipt.Cmd == "receipt" {
				fmt.Println("receipt", receipt.Status, receipt.Connections)
				heard = true
			}
		}
	}

	// To all nodes.
	push = text(map[string]any{"to": to, "id": "m2", "data": "to all nodes"})
	must(client.Publish(ctx, "pn:g", push).Result())

	// Kept in the inbox.
	must(client.TxPipelined(ctx, func(several redis.Pipeliner) error {
		several.SetNX(ctx, "pn:pos:"+tag, 206158430208, 0)
		several.Incr(ctx, "pn:pos:"+tag)
		several.XAdd(ctx, &redis.XAddArgs{
			Stream: "pn:inbox:" + tag, MaxLen: 1000, Approx: true,
			Values: []string{"id", "m3", "data", `"kept"`},
		})
		several.Expire(ctx, "pn:inbox:"+tag, 24*time.Hour)
		several.Expire(ctx, "pn:pos:"+tag, 48*time.Hour)
		return nil
	}))
	must(client.Publish(ctx, "pn:g", text(map[string]any{"to": to, "keep": true})).Result())
	fmt.Println("done")
}
