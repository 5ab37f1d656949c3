package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os/exec"
	"syscall"

	"github.com/containerd/errdefs"
)

// Op names what a request asks for.
type Op string

// The requests.
const (
	OpExec   Op = "exec"
	OpDial   Op = "dial"
	OpPut    Op = "put"
	OpGet    Op = "get"
	OpClock  Op = "clock"
	OpUnpack Op = "unpack"
	OpPower  Op = "power"
)

// Request is the line that a stream begins with. Which fields count, Op tells.
type Request struct {
	Op Op `json:"op"`

	// exec, as in Command.
	Args     []string `json:"args,omitempty"`
	Env      []string `json:"env,omitempty"`
	Dir      string   `json:"dir,omitempty"`
	User     string   `json:"user,omitempty"`
	Terminal *Size    `json:"terminal,omitempty"`
	Input    bool     `json:"input,omitempty"` // frames of kind frameInput will come
	Merge    bool     `json:"merge,omitempty"` // stdout and stderr are one, so that their order is kept

	// dial: a network that package net knows ("tcp", "udp", "unix", "unixpacket", "unixgram") and an address of it.
	Network string `json:"network,omitempty"`
	Address string `json:"address,omitempty"`

	// put and get: an absolute path, and the permission bits of the new file.
	Path string      `json:"path,omitempty"`
	Mode fs.FileMode `json:"mode,omitempty"`

	// clock: nanoseconds since 1970, and random bytes for the kernel's generator.
	Time int64  `json:"time,omitempty"`
	Seed []byte `json:"seed,omitempty"`

	// power: PowerOff or Reboot.
	Action string `json:"action,omitempty"`
}

// maxRequest is the longest line of a request in bytes; Linux gives a program's arguments and environment at most 2 MiB.
const maxRequest = 4 << 20

func writeRequest(w io.Writer, r Request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if len(line) >= maxRequest {
		return fmt.Errorf("request of %d bytes, at most %d are allowed: %w", len(line), maxRequest-1, errdefs.ErrInvalidArgument)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// readRequest reads the line that a stream begins with.
func readRequest(r *bufio.Reader) (Request, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxRequest {
			return Request{}, fmt.Errorf("request of more than %d bytes: %w", maxRequest, errdefs.ErrInvalidArgument)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return Request{}, fmt.Errorf("read request: %w", err)
		}
	}
	var req Request
	if err := json.Unmarshal(line, &req); err != nil {
		return Request{}, fmt.Errorf("decode request: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	return req, nil
}

// resultOf returns the result that tells err to the host.
func resultOf(err error) result {
	if err == nil {
		return result{}
	}
	r := result{Code: -1, Error: err.Error()}
	class := err
	var dns *net.DNSError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound), errors.As(err, &dns):
		class = errdefs.ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		class = errdefs.ErrPermissionDenied
	case errors.Is(err, fs.ErrExist):
		class = errdefs.ErrAlreadyExists
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ETIMEDOUT):
		class = errdefs.ErrUnavailable
	}
	for _, c := range classes {
		if errors.Is(class, c.err) {
			r.Class = c.name
			break
		}
	}
	return r
}
