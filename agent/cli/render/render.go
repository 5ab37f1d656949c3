// Package render writes everything that phonectl says on its standard output: tables for people, and the API's own
// messages as protojson for programs. It formats and never asks: no function here talks to an agent, reads a clock or
// looks at a terminal; times are told relative to the now that the caller hands in. Text that comes from an agent or a
// guest is made printable before it reaches a table, so that no escape sequence of a guest reaches the operator's
// terminal. All functions are safe for concurrent use on different writers.
package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// JSON writes a message of the API as indented protojson, with fields that are at their zero value included, and a line
// feed. The white space is stable, so that outputs can be compared.
func JSON(w io.Writer, m proto.Message) error {
	line, err := compact(m)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, line, "", "  "); err != nil {
		return fmt.Errorf("indent %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// JSONLine writes a message of the API as protojson in one line: streams of messages are printed so.
func JSONLine(w io.Writer, m proto.Message) error {
	line, err := compact(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// Value writes a value that is no message of the API, such as a recording's summary, as indented JSON.
func Value(w io.Writer, v any) error {
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	_, err = w.Write(append(out, '\n'))
	return err
}

// compact encodes m without white space; protojson's own white space differs between builds on purpose.
func compact(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, fmt.Errorf("compact %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return out.Bytes(), nil
}

// IndentJSON indents JSON text that an agent sent, such as an OCI runtime spec, and ends it with a line feed.
func IndentJSON(text string) (string, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, []byte(text), "", "  "); err != nil {
		return "", err
	}
	out.WriteByte('\n')
	return out.String(), nil
}
