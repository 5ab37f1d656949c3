package replay

import (
	"bytes"
	"strings"
)

// Kind says what an Event tells.
type Kind int

// The kinds of events.
const (
	Run       Kind = iota + 1 // Test began
	Output                    // Test printed Text
	Pass                      // Test ended well
	Fail                      // Test failed
	Skip                      // Test was skipped
	Attr                      // Test has the attribute Key with Value
	Artifacts                 // Test keeps its artifacts in the directory Value
	End                       // all tests are over, said by the process itself
)

// Event is one thing that a test process told. Test is the full name of the test, "" for what belongs to none.
type Event struct {
	Kind       Kind
	Test       string
	Text       []byte // of Output: at most one line, with its newline if it had one
	Key, Value string
}

const (
	marker = 0x16 // begins a line that the testing package itself wrote
	// longest is how much of a line without an end is kept back; longer ones are passed on in parts.
	longest = 64 << 10
)

// Parser splits the output of a test binary into events. It is not safe for concurrent use.
//
// The result of a test is reported when the next line of the testing package arrives, or at Close: what follows a result directly,
// such as the trace of a panic, belongs to the test that failed.
type Parser struct {
	emit    func(Event)
	line    []byte
	current string  // the test that printed last
	pending []Event // results not yet reported: one, or a chain of failures, the deepest first
}

// NewParser returns a Parser that calls emit for each event, in order.
func NewParser(emit func(Event)) *Parser { return &Parser{emit: emit} }

// Write takes the next bytes. It never fails.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if b[0] == marker && len(p.line) > 0 {
			p.flush() // a print without newline before it
		}
		// A marker in the middle begins a new line.
		end := bytes.IndexByte(b[1:], marker) + 1
		if newline := bytes.IndexByte(b, '\n'); newline >= 0 && (end <= 0 || newline < end) {
			p.line = append(p.line, b[:newline+1]...)
			p.flush()
			b = b[newline+1:]
			continue
		}
		if end <= 0 {
			end = len(b)
		}
		p.line = append(p.line, b[:end]...)
		b = b[end:]
		if len(p.line) > longest {
			p.flush()
		}
	}
	return n, nil
}

// Close reports what was kept back.
func (p *Parser) Close() {
	p.flush()
	p.settle()
}

// flush handles the line that was collected.
func (p *Parser) flush() {
	line := p.line
	p.line = nil
	if len(line) == 0 {
		return
	}
	if line[0] == marker && p.frame(strings.TrimRight(string(line[1:]), "\r\n")) {
		return
	}
	p.emit(Event{Kind: Output, Test: p.printing(), Text: bytes.TrimPrefix(line, []byte{marker})})
}

// printing is the test to which output belongs now.
func (p *Parser) printing() string {
	if len(p.pending) > 0 {
		return p.pending[0].Test
	}
	return p.current
}

// settle reports the results that were kept back.
func (p *Parser) settle() {
	for _, e := range p.pending {
		p.emit(e)
	}
	p.pending = nil
}

// frame handles a line that the testing package marked, and reports whether it was one.
func (p *Parser) frame(line string) bool {
	switch {
	case strings.HasPrefix(line, "=== "):
		return p.update(line[len("=== "):])
	case strings.HasPrefix(line, "--- "):
		return p.result(line[len("--- "):])
	case line == "PASS" || line == "FAIL":
		p.settle()
		p.current = ""
		p.emit(Event{Kind: End, Value: line})
		return true
	}
	return false
}

// update handles "RUN   TestX".
func (p *Parser) update(line string) bool {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimLeft(rest, " ")
	name, more, _ := strings.Cut(rest, " ")
	e := Event{Test: name}
	switch word {
	case "RUN":
		e.Kind = Run
	case "ATTR":
		e.Kind = Attr
		e.Key, e.Value, _ = strings.Cut(more, " ")
	case "ARTIFACTS":
		e.Kind, e.Value = Artifacts, more
	case "PAUSE", "CONT", "NAME":
	default:
		return false
	}
	p.settle()
	p.current = name
	if e.Kind != 0 {
		p.emit(e)
	}
	return true
}

// result handles "FAIL: TestX/a (0.01s)".
func (p *Parser) result(line string) bool {
	word, name, ok := strings.Cut(line, ": ")
	kind, known := map[string]Kind{"PASS": Pass, "FAIL": Fail, "SKIP": Skip}[word]
	if !ok || !known {
		return false
	}
	if i := strings.LastIndex(name, " ("); i >= 0 {
		name = name[:i]
	}
	// A test that panics reports its own failure and at once those of the tests around it, before the trace is printed.
	if n := len(p.pending); n > 0 && (kind != Fail || p.pending[n-1].Kind != Fail || !strings.HasPrefix(p.pending[n-1].Test, name+"/")) {
		p.settle()
	}
	p.pending = append(p.pending, Event{Kind: kind, Test: name})
	p.current = name
	return true
}
