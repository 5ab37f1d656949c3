package wire

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Header is the first eight bytes of a message.
type Header struct {
	// Object is the id of the object that the message is sent to, or that sends it.
	Object uint32
	// Opcode is the number of the request or event.
	Opcode uint16
	// Size is the length of the whole message in bytes, header included.
	Size int
}

// ParseHeader reads a header from b, which holds at least HeaderSize bytes. It returns an error of class ErrMalformed when
// the size is below HeaderSize, above MaxMessage or not a multiple of four.
func ParseHeader(b []byte) (Header, error) {
	word := binary.NativeEndian.Uint32(b[4:])
	h := Header{Object: binary.NativeEndian.Uint32(b), Opcode: uint16(word), Size: int(word >> 16)}
	if h.Size < HeaderSize || h.Size > MaxMessage || h.Size%4 != 0 {
		return h, fmt.Errorf("length %d of a message to object %d: %w", h.Size, h.Object, ErrMalformed)
	}
	return h, nil
}

// Append marshals m for object onto dst. Descriptors are not part of the bytes. Arguments that do not fit the signature, or
// a message longer than MaxMessage, are an error of class ErrMalformed and leave dst as it was.
func Append(dst []byte, object uint32, m *Message, args ...Value) ([]byte, error) {
	start := len(dst)
	if len(args) != len(m.Params) {
		return dst, fmt.Errorf("%v: %d arguments for %d parameters: %w", m, len(args), len(m.Params), ErrMalformed)
	}
	dst = binary.NativeEndian.AppendUint32(dst, object)
	dst = binary.NativeEndian.AppendUint32(dst, 0)
	for i := range args {
		p, v := &m.Params[i], &args[i]
		if err := checkArg(p, v); err != nil {
			return dst[:start], fmt.Errorf("%v: argument %s: %w", m, p.Name, err)
		}
		switch v.kind {
		case KindString:
			dst = appendString(dst, v)
		case KindArray:
			dst = appendPadded(binary.NativeEndian.AppendUint32(dst, uint32(len(v.b))), v.b, 0)
		case KindFD:
		default:
			dst = binary.NativeEndian.AppendUint32(dst, v.n)
		}
	}
	size := len(dst) - start
	if size > MaxMessage {
		return dst[:start], fmt.Errorf("%v: %d bytes are more than a message holds: %w", m, size, ErrMalformed)
	}
	binary.NativeEndian.PutUint32(dst[start+4:], uint32(size)<<16|uint32(m.Opcode))
	return dst, nil
}

// checkArg tells whether v may stand where p is asked for.
func checkArg(p *Param, v *Value) error {
	if p.Kind != v.kind {
		return fmt.Errorf("%v for %v: %w", v.kind, p.Kind, ErrMalformed)
	}
	switch v.kind {
	case KindString:
		if v.null && !p.Nullable {
			return fmt.Errorf("null string: %w", ErrMalformed)
		}
		if strings.IndexByte(v.s, 0) >= 0 {
			return fmt.Errorf("string with a NUL byte: %w", ErrMalformed)
		}
	case KindObject:
		if v.n == 0 && !p.Nullable {
			return fmt.Errorf("null object: %w", ErrMalformed)
		}
	case KindNewID:
		if v.n == 0 {
			return fmt.Errorf("null new_id: %w", ErrMalformed)
		}
	}
	return nil
}

func appendString(dst []byte, v *Value) []byte {
	if v.null {
		return binary.NativeEndian.AppendUint32(dst, 0)
	}
	return appendPadded(binary.NativeEndian.AppendUint32(dst, uint32(len(v.s)+1)), v.s, 1)
}

// appendPadded appends s, extra zero bytes, and zero bytes up to a multiple of four.
func appendPadded[T string | []byte](dst []byte, s T, extra int) []byte {
	dst = append(dst, s...)
	n := len(s) + extra
	for range extra + (4-n%4)%4 {
		dst = append(dst, 0)
	}
	return dst
}

// Decode unmarshals body, the bytes after the header, by the signature of m, and appends the arguments to dst. Descriptors
// come from take, which returns false when none has arrived; whoever calls owns those in the result. On error, which is of
// class ErrMalformed, the descriptors that were taken are closed. Arrays alias body.
func Decode(dst []Value, m *Message, body []byte, take func() (int, bool)) ([]Value, error) {
	start := len(dst)
	rest := body
	for i := range m.Params {
		p := &m.Params[i]
		v, n, err := decodeArg(p, rest, take)
		if err == nil && v.kind != KindFD {
			err = checkArg(p, &v)
		}
		if err != nil {
			CloseFDs(dst[start:])
			return dst[:start], fmt.Errorf("%v: argument %s: %w", m, p.Name, err)
		}
		rest = rest[n:]
		dst = append(dst, v)
	}
	if len(rest) != 0 {
		CloseFDs(dst[start:])
		return dst[:start], fmt.Errorf("%v: %d bytes after the last argument: %w", m, len(rest), ErrMalformed)
	}
	return dst, nil
}

// decodeArg reads one argument from b and returns it and how many bytes it took.
func decodeArg(p *Param, b []byte, take func() (int, bool)) (Value, int, error) {
	if p.Kind == KindFD {
		fd, ok := take()
		if !ok {
			return Value{}, 0, fmt.Errorf("no descriptor came with it: %w", ErrMalformed)
		}
		return Value{kind: KindFD, fd: fd}, 0, nil
	}
	if len(b) < 4 {
		return Value{}, 0, fmt.Errorf("message too short: %w", ErrMalformed)
	}
	n := binary.NativeEndian.Uint32(b)
	v := Value{kind: p.Kind, n: n}
	if p.Kind != KindString && p.Kind != KindArray {
		return v, 4, nil
	}
	padded := (uint64(n) + 3) &^ 3
	if padded > uint64(len(b)-4) {
		return Value{}, 0, fmt.Errorf("length %d is beyond the message: %w", n, ErrMalformed)
	}
	data := b[4 : 4+n]
	v.n = 0
	switch {
	case p.Kind == KindArray:
		v.b = data
	case n == 0:
		v.null = true
	case data[n-1] != 0:
		return Value{}, 0, fmt.Errorf("string without its NUL byte: %w", ErrMalformed)
	default:
		v.s = string(data[:n-1])
	}
	return v, 4 + int(padded), nil
}
