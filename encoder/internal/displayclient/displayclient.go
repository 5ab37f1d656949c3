// Package displayclient speaks the display protocol from the agent's side, for tests and benchmarks of the display. The agent
// has a client of its own (agent/display), which this engine must not know.
//
// A Client is for one goroutine at a time and starts none.
package displayclient

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"

	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
	"google.golang.org/protobuf/proto"
)

// Client is a connection to a display.
type Client struct {
	net.Conn
	request uint64
}

// Dial connects to a display's socket, without a hello.
func Dial(path string) (*Client, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("dial display: %w", err)
	}
	return &Client{Conn: conn}, nil
}

// Hello is the first message of a client.
func Hello() *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_Hello{Hello: &displayv1.ClientHello{Version: 1}}}
}

// OpenLevel asks for a level.
func OpenLevel(level, kbps, fps uint32) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_OpenLevel{
		OpenLevel: &displayv1.OpenLevel{Level: level, BitrateKbps: kbps, MaxFps: fps},
	}}
}

// CloseLevel ends a level.
func CloseLevel(level uint32) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_CloseLevel{CloseLevel: &displayv1.CloseLevel{Level: level}}}
}

// Credit allows packets.
func Credit(level, packets uint32) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_Credit{
		Credit: &displayv1.Credit{Level: level, Packets: packets},
	}}
}

// ForceKeyFrame asks for a key frame.
func ForceKeyFrame(level uint32) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_ForceKeyFrame{
		ForceKeyFrame: &displayv1.ForceKeyFrame{Level: level},
	}}
}

// GetState asks for the state.
func GetState() *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_GetState{GetState: &displayv1.GetState{}}}
}

// Screenshot asks for a screenshot.
func Screenshot() *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_TakeScreenshot{TakeScreenshot: &displayv1.TakeScreenshot{}}}
}

// Input delivers events.
func Input(events ...*displayv1.InputEvent) *displayv1.ClientMessage {
	return &displayv1.ClientMessage{Message: &displayv1.ClientMessage_Input{Input: &displayv1.Input{Events: events}}}
}

// Send sends a message as it is.
func (c *Client) Send(m *displayv1.ClientMessage) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// Receive returns the next message.
func (c *Client) Receive() (*displayv1.ServerMessage, error) {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	m := &displayv1.ServerMessage{}
	return m, proto.Unmarshal(b, m)
}

// Call sends a message under a number of its own and returns its answer; what comes before the answer is thrown away.
func (c *Client) Call(m *displayv1.ClientMessage) (*displayv1.ServerMessage, error) {
	c.request++
	m.Request = c.request
	if err := c.Send(m); err != nil {
		return nil, err
	}
	for {
		if a, err := c.Receive(); err != nil || a.GetRequest() == m.Request {
			return a, err
		}
	}
}

// Packet returns the next packet; what comes before it is thrown away.
func (c *Client) Packet() (*displayv1.VideoPacket, error) {
	for {
		m, err := c.Receive()
		if err != nil || m.GetPacket() != nil {
			return m.GetPacket(), err
		}
	}
}
