// Connects by one of two WebSocket libraries, prints what comes, and comes back when it ends.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// After these close codes, connecting again does not help.
var final = []int{1002, 1007, 1008, 1009, 4001, 4005, 4006}

// More than the 32 KiB that coder/websocket reads of a message by itself.
const largest = 1 << 21

var resume string

// What each library does for a connection.
type connection struct {
	read  func() ([]byte, error)
	write func([]byte) error
	// Closes with 1000.
	close func()
	// The code and the reason of the end.
	end func(error) (int, string)
}

func dialCoder(target string, protocols []string, header http.Header) (*connection, error) {
	ctx := context.Background()
	options := coder.DialOptions{Subprotocols: protocols, HTTPHeader: header}
	socket, _, err := coder.Dial(ctx, target, &options)
	if err != nil {
		return nil, err
	}
	socket.SetReadLimit(largest)
	go func() {
		// Waits for the pong, while another goroutine reads.
		if socket.Ping(ctx) == nil {
			fmt.Println("pong")
		}
	}()
	return &connection{
		read: func() ([]byte, error) {
			_, text, err := socket.Read(ctx)
			return text, err
		},
		write: func(text []byte) error { return socket.Write(ctx, coder.MessageText, text) },
		// Waits for the node's close frame, which the reader must not take.
		close: func() {
			if err := socket.Close(coder.StatusNormalClosure, ""); err == nil {
				fmt.Println("close 1000 goodbye")
			}
		},
		end: func(err error) (int, string) {
			var closed coder.CloseError
			if errors.As(err, &closed) {
				return int(closed.Code), closed.Reason
			}
			return 1006, err.Error()
		},
	}, nil
}

func dialGorilla(target string, protocols []string, header http.Header) (*connection, error) {
	dialer := gorilla.Dialer{Subprotocols: protocols}
	socket, _, err := dialer.Dial(target, header)
	if err != nil {
		return nil, err
	}
	socket.SetPongHandler(func(string) error {
		fmt.Println("pong")
		return nil
	})
	socket.WriteControl(gorilla.PingMessage, nil, time.Now().Add(time.Minute))
	return &connection{
		read: func() ([]byte, error) {
			_, text, err := socket.ReadMessage()
			return text, err
		},
		write: func(text []byte) error { return socket.WriteMessage(gorilla.TextMessage, text) },
		close: func() {
			goodbye := gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, "")
			socket.WriteControl(gorilla.CloseMessage, goodbye, time.Now().Add(time.Minute))
		},
		end: func(err error) (int, string) {
			socket.Close()
			var closed *gorilla.CloseError
			if errors.As(err, &closed) {
				return closed.Code, closed.Text
			}
			return 1006, err.Error()
		},
	}, nil
}

// Reads until the connection ends, and answers the close code.
func listen(socket *connection) int {
	for {
		text, err := socket.read()
		if err != nil {
			code, reason := socket.end(err)
			fmt.Println("close", code, reason)
			return code
		}
		fmt.Printf("frame %s\n", text)
		var frame struct {
			Resume string
			Data   any
		}
		json.Unmarshal(text, &frame)
		if frame.Resume != "" {
			resume = frame.Resume
		}
		switch frame.Data {
		case "large":
			text, _ := json.Marshal(map[string]string{"type": "ping", "pad": strings.Repeat("x", 1_200_000)})
			socket.write(text)
		case "goodbye":
			socket.close()
		}
	}
}

func main() {
	library, address, token := os.Args[1], os.Args[2], os.Args[3]
	dial := map[string]func(string, []string, http.Header) (*connection, error){
		"coder/websocket":   dialCoder,
		"gorilla/websocket": dialGorilla,
	}[library]
	for byHeader := true; ; byHeader = !byHeader {
		target := address
		if resume != "" {
			target += "&since=" + url.QueryEscape(resume)
		}
		protocols, header := []string{"pushnode.v1"}, http.Header{}
		// By header, as programs can, and by subprotocol, as browsers must.
		if byHeader {
			header.Set("Authorization", "Bearer "+token)
			fmt.Println("by header")
		} else {
			protocols = append(protocols, "bearer."+token)
			fmt.Println("by subprotocol")
		}
		if socket, err := dial(target, protocols, header); err != nil {
			fmt.Println("error", err) // the node is not there yet
		} else if slices.Contains(final, listen(socket)) {
			break
		}
		time.Sleep(300 * time.Millisecond)
	}
	fmt.Println("end")
}
