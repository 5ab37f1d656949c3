package cli

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

//go:embed completion/bash.sh
var bashCompletion string

//go:embed completion/zsh.sh
var zshCompletion string

//go:embed completion/fish.fish
var fishCompletion string

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is the detailed help.
func (c *completionCmd) Help() string {
	return "bash: `source <(phonectl completion bash)`. zsh: `source <(phonectl completion zsh)`. " +
		"fish: `phonectl completion fish | source`. Put the line into the shell's start file to have it always."
}

func (c *completionCmd) Run(a *app) error {
	script := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Shell]
	_, err := fmt.Fprint(a.stdout, script)
	return err
}

// completeCmd answers the scripts: its arguments are the words after phonectl, the last of them the one being typed.
type completeCmd struct {
	Words []string `arg:"" optional:""`
}

// completionTimeout is how long a shell waits for ids at most.
const completionTimeout = time.Second

func (c *completeCmd) Run(ctx context.Context, a *app) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if len(words) == 0 {
		words = []string{""}
	}
	var root commandLine
	parser, _, err := newParser(&root, a)
	if err != nil {
		return err
	}
	line := readWords(parser.Model.Node, words[:len(words)-1])
	candidates := line.candidates(words[len(words)-1])
	if candidates == nil {
		candidates = a.complete(ctx, line)
	}
	prefix := words[len(words)-1]
	for _, candidate := range candidates {
		if strings.HasPrefix(candidate, prefix) {
			if _, err := fmt.Fprintln(a.stdout, render.Printable(candidate)); err != nil {
				return err
			}
		}
	}
	return nil
}

// words is a command line up to the word that is being typed.
type words struct {
	node     *kong.Node        // command so far
	args     int               // its positional arguments so far
	flag     *kong.Flag        // flag whose value is being typed, or nil
	values   map[string]string // values of the flags so far, by name
	verbatim bool              // after "--": nothing here is phonectl's
}

// readWords reads complete words against the grammar. What does not fit is passed over.
func readWords(root *kong.Node, complete []string) words {
	w := words{node: root, values: map[string]string{}}
	for _, word := range complete {
		switch {
		case w.verbatim:
		case w.flag != nil:
			w.values[w.flag.Name] = word
			w.flag = nil
		case word == "--":
			w.verbatim = true
		case strings.HasPrefix(word, "-"):
			name, value, set := strings.Cut(word, "=")
			flag := w.find(name)
			switch {
			case flag == nil || flag.IsBool():
			case set:
				w.values[flag.Name] = value
			default:
				w.flag = flag
			}
		default:
			w.descend(word)
		}
	}
	return w
}

// descend takes a word that is no flag: a command, or an argument. An argument that has commands below it is entered.
func (w *words) descend(word string) {
	for _, child := range w.node.Children {
		if child.Type == kong.CommandNode && child.Name == word {
			w.node, w.args = child, 0
			return
		}
		if child.Type == kong.ArgumentNode {
			w.node, w.args = child, 0
			return
		}
	}
	w.args++
}

// find returns the flag of a word such as "--host" or "-o".
func (w *words) find(word string) *kong.Flag {
	for _, flags := range w.node.AllFlags(false) {
		for _, flag := range flags {
			if word == "--"+flag.Name || (flag.Short != 0 && word == "-"+string(flag.Short)) {
				return flag
			}
		}
	}
	return nil
}

// candidates are what the grammar alone can offer for the word being typed; nil where only an agent knows.
func (w *words) candidates(typed string) []string {
	switch {
	case w.verbatim:
		return []string{}
	case w.flag != nil && w.flag.Enum != "":
		return w.flag.EnumSlice()
	case w.flag != nil:
		return nil
	case strings.HasPrefix(typed, "-"):
		names := []string{}
		for _, flags := range w.node.AllFlags(true) {
			for _, flag := range flags {
				names = append(names, "--"+flag.Name)
			}
		}
		return names
	}
	var names []string
	for _, child := range w.node.Children {
		if child.Type == kong.CommandNode && !child.Hidden && w.args == 0 {
			names = append(names, child.Name)
		}
	}
	if arg := w.argument(); names == nil && arg != nil && arg.Enum != "" {
		names = arg.EnumSlice()
	}
	return names
}

// argument is the positional argument that is being typed; the last one may take many.
func (w *words) argument() *kong.Value {
	n := len(w.node.Positional)
	switch {
	case w.args < n:
		return w.node.Positional[w.args]
	case n > 0 && w.node.Positional[n-1].IsCumulative():
		return w.node.Positional[n-1]
	}
	return nil
}

// complete asks the agent that the line names for ids. An agent that does not answer offers nothing.
func (a *app) complete(ctx context.Context, w words) []string {
	g := &a.globals
	for flag, target := range map[string]*string{
		"host": &g.Host, "hub": &g.Hub, "agent": &g.Agent, "cert": &g.Cert, "key": &g.Key, "ca": &g.CA,
	} {
		if value, ok := w.values[flag]; ok {
			*target = value
		}
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	ids := a.wanted(ctx, w)
	slices.Sort(ids)
	return ids
}

// wanted returns the ids that fit where the line is.
func (a *app) wanted(ctx context.Context, w words) []string {
	name := ""
	if arg := w.argument(); arg != nil {
		name = arg.Name
	} else if len(w.node.Children) > 0 && w.node.Children[0].Type == kong.ArgumentNode {
		name = w.node.Children[0].Argument.Name
	}
	switch {
	case w.flag != nil && (w.flag.Name == "clone-from" || w.flag.Name == "phone"):
		return a.phoneIDs(ctx)
	case w.flag != nil && w.flag.Name == "image":
		return a.imageNames(ctx)
	case w.flag != nil && w.flag.Name == "policy":
		return a.policyNames(ctx)
	case w.flag != nil && w.flag.Name == "app-list":
		return a.appListNames(ctx)
	case w.flag != nil:
		return nil
	case w.node.Path() == "ops show" || w.node.Path() == "ops wait":
		return a.operationIDs(ctx)
	case w.node.Path() == "image rm":
		return a.imageNames(ctx)
	case name == "policy":
		return a.policyNames(ctx)
	case name == "applist" && w.node.Name != "put":
		return a.appListNames(ctx)
	case name == "id" && w.node.Name != "create":
		return a.phoneIDs(ctx)
	}
	return nil
}

func (a *app) phoneIDs(ctx context.Context) []string {
	phones, err := a.phones(ctx)
	if err != nil {
		return nil
	}
	answer, err := phones.ListPhones(ctx, &phonehostv1.ListPhonesRequest{})
	if err != nil {
		return nil
	}
	var ids []string
	for _, p := range answer.GetPhones() {
		ids = append(ids, p.GetSpec().GetId())
	}
	return ids
}

func (a *app) operationIDs(ctx context.Context) []string {
	operations, err := a.operations(ctx)
	if err != nil {
		return nil
	}
	answer, err := operations.ListOperations(ctx, &phonehostv1.ListOperationsRequest{})
	if err != nil {
		return nil
	}
	var ids []string
	for _, op := range answer.GetOperations() {
		ids = append(ids, op.GetId())
	}
	return ids
}

func (a *app) policyNames(ctx context.Context) []string {
	networks, err := a.networks(ctx)
	if err != nil {
		return nil
	}
	answer, err := networks.ListPolicies(ctx, &phonehostv1.ListPoliciesRequest{})
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range answer.GetPolicies() {
		names = append(names, p.GetName())
	}
	return names
}

func (a *app) appListNames(ctx context.Context) []string {
	lists, err := a.appLists(ctx)
	if err != nil {
		return nil
	}
	answer, err := lists.ListAppLists(ctx, &phonehostv1.ListAppListsRequest{})
	if err != nil {
		return nil
	}
	var names []string
	for _, l := range answer.GetAppLists() {
		names = append(names, l.GetName())
	}
	return names
}

func (a *app) imageNames(ctx context.Context) []string {
	images, err := a.images(ctx)
	if err != nil {
		return nil
	}
	answer, err := images.ListImages(ctx, &phonehostv1.ListImagesRequest{})
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range answer.GetImages() {
		names = append(names, i.GetName())
	}
	return names
}
