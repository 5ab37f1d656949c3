package policy

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// The words of the text form, by the values that they stand for.
var (
	actions    = []string{Deny: "deny", Allow: "allow"}
	directions = []string{Egress: "egress", Ingress: "ingress"}
	protocols  = []string{Any: "any", TCP: "tcp", UDP: "udp", ICMP: "icmp"}
	defaults   = []string{AllowInternet: "allow-internet", DenyAll: "deny-all"}
)

// anyWord is any address.
const anyWord = "any"

// form is what a line looks like.
const form = "ACTION DIRECTION PROTOCOL PEER [PORTS], as allow egress tcp *.example.com 443"

// maxColumn is how wide the column of peers may become: as the longest prefix is.
const maxColumn = 43

// word is the word for a value, or its number where it has none.
func word[T ~uint8](words []string, value T) string {
	if int(value) < len(words) {
		return words[value]
	}
	return strconv.Itoa(int(value))
}

func (a Action) String() string    { return word(actions, a) }
func (d Direction) String() string { return word(directions, d) }
func (p Protocol) String() string  { return word(protocols, p) }
func (d Default) String() string   { return word(defaults, d) }

// String is the range in the text form: 443, 5000-5999.
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// String is the rule in the text form, which ParseRule reads.
func (r Rule) String() string {
	return strings.Join(r.words(), " ")
}

// words are the words of a rule: action, direction, protocol, peer, and ports if it has any.
func (r Rule) words() []string {
	peer := anyWord
	switch {
	case r.Name != "":
		peer = r.Name
	case r.CIDR != netip.Prefix{}:
		peer = r.CIDR.String()
	}
	words := []string{r.Action.String(), r.Direction.String(), r.Protocol.String(), peer}
	if len(r.Ports) == 0 {
		return words
	}
	ports := make([]string, len(r.Ports))
	for i, p := range r.Ports {
		ports[i] = p.String()
	}
	return append(words, strings.Join(ports, ","))
}

// Format is the text form of a policy, which Parse reads: the default first, then one rule a line, in columns.
func Format(p Policy) []byte {
	var text bytes.Buffer
	fmt.Fprintf(&text, "default %s\n", p.Default)
	width := 0
	for _, r := range p.Rules {
		if w := r.words(); len(w) > 4 {
			width = max(width, min(len(w[3]), maxColumn))
		}
	}
	for _, r := range p.Rules {
		w := r.words()
		fmt.Fprintf(&text, "%-5s %-7s %-4s ", w[0], w[1], w[2])
		if len(w) > 4 {
			fmt.Fprintf(&text, "%-*s %s\n", width, w[3], w[4])
		} else {
			fmt.Fprintf(&text, "%s\n", w[3])
		}
	}
	return text.Bytes()
}

// Parse reads the text form of a policy and validates it. A # begins a comment, empty lines say nothing, words stand apart by any
// number of blanks. "default" stands once or not at all, which means allow-internet. Errors name the line, from 1, and the wrong word; they
// are of class errdefs.ErrInvalidArgument.
func Parse(text []byte) (Policy, error) {
	var p Policy
	var lines []int // by rule
	seen := 0       // the line with the default
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "default":
			if seen > 0 {
				return Policy{}, fmt.Errorf("line %d: default: line %d has one already; leave one of them out: %w", number, seen, errdefs.ErrInvalidArgument)
			}
			seen = number
			if err := parseDefault(&p, words[1:]); err != nil {
				return Policy{}, fmt.Errorf("line %d: %w", number, err)
			}
		case len(p.Rules) == MaxRules:
			return Policy{}, fmt.Errorf("line %d: a policy may have %d rules, and here is one more: %w", number, MaxRules, errdefs.ErrInvalidArgument)
		default:
			r, err := parseWords(words)
			if err != nil {
				return Policy{}, fmt.Errorf("line %d: %w", number, err)
			}
			p.Rules = append(p.Rules, r)
			lines = append(lines, number)
		}
	}
	if i, err := p.validateNames(); err != nil {
		return Policy{}, fmt.Errorf("line %d: %w", lines[i], err)
	}
	return p, nil
}

func parseDefault(p *Policy, words []string) error {
	if len(words) != 1 {
		return fmt.Errorf("default: want one word after it, allow-internet or deny-all: %w", errdefs.ErrInvalidArgument)
	}
	return parseWord(&p.Default, "default", defaults, words[0])
}

// ParseRule reads a rule in the text form and validates it. The error is of class errdefs.ErrInvalidArgument.
func ParseRule(text string) (Rule, error) {
	text, _, _ = strings.Cut(text, "#")
	return parseWords(strings.Fields(text))
}

func parseWords(words []string) (Rule, error) {
	var r Rule
	if len(words) > 0 {
		if err := parseWord(&r.Action, "action", actions, words[0]); err != nil {
			return Rule{}, err
		}
	}
	if len(words) < 4 {
		return Rule{}, fmt.Errorf("%q: has %d words; want %s: %w", clip(strings.Join(words, " ")), len(words), form, errdefs.ErrInvalidArgument)
	}
	if len(words) > 5 {
		return Rule{}, fmt.Errorf("%q: is a word too much; want %s; ports are put together by commas without blanks, 80,443,5000-5999: %w", clip(words[5]), form, errdefs.ErrInvalidArgument)
	}
	if err := parseWord(&r.Direction, "direction", directions, words[1]); err != nil {
		return Rule{}, err
	}
	if err := parseWord(&r.Protocol, "protocol", protocols, words[2]); err != nil {
		return Rule{}, err
	}
	if err := r.parsePeer(words[3]); err != nil {
		return Rule{}, err
	}
	if len(words) == 5 {
		if err := r.parsePorts(words[4]); err != nil {
			return Rule{}, err
		}
	}
	if err := r.validate(); err != nil {
		return Rule{}, err
	}
	return r, nil
}

// parseWord finds the value that a word stands for.
func parseWord[T ~uint8](value *T, what string, words []string, word string) error {
	for i, w := range words {
		if w == word {
			*value = T(i)
			return nil
		}
	}
	last := len(words) - 1
	return fmt.Errorf("%s %q: want %s or %s: %w", what, clip(word), strings.Join(words[:last], ", "), words[last], errdefs.ErrInvalidArgument)
}

// parsePeer reads any, a prefix or a name.
func (r *Rule) parsePeer(word string) error {
	if word == anyWord {
		return nil
	}
	if address, err := netip.ParseAddr(word); err == nil {
		return fmt.Errorf("peer %q: an address is written as a prefix, %s: %w", word, netip.PrefixFrom(normal(address), normal(address).BitLen()), errdefs.ErrInvalidArgument)
	}
	if !strings.ContainsAny(word, "/:") {
		r.Name = word
		return nil // validate looks at it
	}
	cidr, err := netip.ParsePrefix(word)
	if err != nil {
		return fmt.Errorf("peer %q: want any, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a name such as example.com or *.example.com: %w", clip(word), errdefs.ErrInvalidArgument)
	}
	r.CIDR = cidr
	return nil
}

func (r *Rule) parsePorts(list string) error {
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		p := PortRange{}
		var ok1, ok2 bool
		p.First, ok1 = parsePort(first)
		p.Last, ok2 = parsePort(last)
		if !ok1 || !ok2 || p.First > p.Last {
			return fmt.Errorf("ports %q: %q is none; want numbers and ranges of 1..65535, as 80,443,5000-5999: %w", clip(list), clip(part), errdefs.ErrInvalidArgument)
		}
		r.Ports = append(r.Ports, p)
	}
	return nil
}

// parsePort reads a port as it is usually written: digits without a sign or zeros before them.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && s[0] != '0'
}

// clip is a word as an error shows it: not all of it if it is very long.
func clip(word string) string {
	const most = 100
	if len(word) <= most {
		return word
	}
	return word[:most] + "..."
}
