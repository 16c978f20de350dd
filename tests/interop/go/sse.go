// Receives an event stream by one of two libraries, and prints what comes.
package main

import (
	"fmt"
	"net/http"
	"os"

	r3labs "github.com/r3labs/sse/v2"
	tmaxmax "github.com/tmaxmax/go-sse"
)

// More than the 64 KiB that both libraries read of an event by themselves.
const largest = 1 << 20

func tell(name, data string) {
	if name == "" || name == "message" {
		fmt.Println("data", data)
	} else {
		fmt.Println("event", name)
	}
}

func main() {
	library, url := os.Args[1], os.Args[2]
	var err error
	switch library {
	case "r3labs/sse":
		client := r3labs.NewClient(url, r3labs.ClientMaxBufferSize(largest))
		err = client.SubscribeRaw(func(event *r3labs.Event) {
			tell(string(event.Event), string(event.Data))
		})
	case "tmaxmax/go-sse":
		request, _ := http.NewRequest("GET", url, nil)
		connection := tmaxmax.NewConnection(request)
		connection.Buffer(nil, largest)
		connection.SubscribeToAll(func(event tmaxmax.Event) {
			tell(event.Type, event.Data)
		})
		err = connection.Connect()
	}
	fmt.Println("end", err)
}
