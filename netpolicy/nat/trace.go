package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// step is something that a chain of nftables did with a traced packet.
type step struct {
	family  uint8 // NFPROTO_ of the table
	table   string
	chain   string
	rule    uint64 // handle; 0 if the chain's policy decided
	dropped bool
}

// tracer reports what nftables does with the packets that come in by one link and are traced.
type tracer struct {
	conn  *netlink.Conn
	link  uint32
	known map[uint32]bool // packets that came in by the link
}

// newTracer begins to listen; what was traced before is not seen.
func newTracer(link int) (*tracer, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a connection to netfilter: %w", err)
	}
	if err := errors.Join(conn.SetReadBuffer(1<<20), conn.JoinGroup(unix.NFNLGRP_NFTRACE)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen to the traces of nftables: %w", err)
	}
	return &tracer{conn: conn, link: uint32(link), known: map[uint32]bool{}}, nil
}

func (t *tracer) close() { t.conn.Close() }

// until calls fn with each step of the link's packets until it returns true or the time has come, which is no error.
func (t *tracer) until(ctx context.Context, deadline time.Time, fn func(step) bool) error {
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := t.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	for {
		messages, err := t.conn.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read the traces of nftables: %w", err)
		}
		for _, m := range messages {
			s, ours, err := t.parse(m.Data)
			if err != nil {
				return fmt.Errorf("read a trace of nftables: %w", err)
			}
			if ours && fn(s) {
				return nil
			}
		}
	}
}

// dropped is NF_DROP; above verdictMask a verdict may carry an error.
const (
	dropped     = 0
	verdictMask = 0xff
)

// genericHeader is the length of struct nfgenmsg: family, version, id of a resource.
const genericHeader = 4

// parse reads one message. A packet is told by its number; only the first message of each base chain has the link that it came in by.
func (t *tracer) parse(data []byte) (s step, ours bool, err error) {
	if len(data) < genericHeader {
		return s, false, fmt.Errorf("%d bytes are too few", len(data))
	}
	s.family = data[0]
	attributes, err := netlink.NewAttributeDecoder(data[genericHeader:])
	if err != nil {
		return s, false, err
	}
	attributes.ByteOrder = binary.BigEndian
	var packet uint32
	for attributes.Next() {
		switch attributes.Type() {
		case unix.NFTA_TRACE_ID:
			packet = attributes.Uint32()
		case unix.NFTA_TRACE_TABLE:
			s.table = attributes.String()
		case unix.NFTA_TRACE_CHAIN:
			s.chain = attributes.String()
		case unix.NFTA_TRACE_RULE_HANDLE:
			s.rule = attributes.Uint64()
		case unix.NFTA_TRACE_IIF:
			if attributes.Uint32() == t.link {
				ours = true
			}
		case unix.NFTA_TRACE_POLICY:
			s.dropped = attributes.Uint32() == dropped
		case unix.NFTA_TRACE_VERDICT:
			attributes.Nested(func(verdict *netlink.AttributeDecoder) error {
				for verdict.Next() {
					if verdict.Type() == unix.NFTA_VERDICT_CODE {
						s.dropped = verdict.Uint32()&verdictMask == dropped
					}
				}
				return nil
			})
		}
	}
	if ours {
		t.known[packet] = true
	}
	return s, t.known[packet], attributes.Err()
}
