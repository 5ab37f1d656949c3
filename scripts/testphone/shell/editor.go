package shell

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/syntax"
)

// editor reads lines from a terminal, with editing and history. The terminal is raw only while a line is read.
type editor struct {
	in       *os.File
	keys     *keys
	terminal *term.Terminal
}

func newEditor(s Streams) *editor {
	k := &keys{in: s.In}
	return &editor{s.In, k, term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{k, s.Out}, "")}
}

// read returns the statements of the next complete input, none when it was interrupted. Errors: io.EOF, syntax.ParseError.
func (e *editor) read(parser *syntax.Parser, prompt string) ([]*syntax.Stmt, error) {
	text := ""
	for {
		line, err := e.line(prompt)
		if err != nil {
			return nil, err
		}
		if e.keys.interrupted {
			e.keys.interrupted = false
			return nil, nil
		}
		text += line + "\n"
		file, err := parser.Parse(strings.NewReader(text), "")
		if err == nil {
			return file.Stmts, nil
		}
		var parse syntax.ParseError
		if !errors.As(err, &parse) || !parse.Incomplete {
			return nil, err
		}
		prompt = "> "
	}
}

func (e *editor) line(prompt string) (string, error) {
	fd := int(e.in.Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer term.Restore(fd, old)
	if width, height, err := term.GetSize(fd); err == nil && width > 0 {
		if err := e.terminal.SetSize(width, height); err != nil {
			return "", err
		}
	}
	e.terminal.SetPrompt(prompt)
	line, err := e.terminal.ReadLine()
	if errors.Is(err, term.ErrPasteIndicator) {
		err = nil
	}
	return line, err
}

// keys turns an interrupt key, which the terminal package takes for the end of input, into an empty line.
type keys struct {
	in          io.Reader
	interrupted bool
	rest        []byte
}

const interruptKey = 3

func (k *keys) Read(b []byte) (int, error) {
	if len(k.rest) > 0 {
		n := copy(b, k.rest)
		k.rest = k.rest[n:]
		return n, nil
	}
	n, err := k.in.Read(b)
	if i := strings.IndexByte(string(b[:n]), interruptKey); i >= 0 {
		// To the end of the line, delete all of it, enter.
		k.interrupted = true
		k.rest = append([]byte("\x05\x15\r"), b[i+1:n]...)
		if i == 0 {
			n = copy(b, k.rest)
			k.rest = k.rest[n:]
			return n, err
		}
		n = i
	}
	return n, err
}
