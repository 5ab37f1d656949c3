package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/fault"
)

func TestExitCodesAndWords(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancelLate := context.WithDeadline(context.Background(), time.Unix(0, 0))
	defer cancelLate()
	running := context.Background()
	tests := []struct {
		name string
		ctx  context.Context
		err  error
		code int
		want string
	}{
		{"done", running, nil, 0, ""},
		{"a guest's own code", running, exitError{code: 42}, 42, ""},
		{"usage", running, usagef("no %s", "words"), 2, "phonectl: no words\n"},
		{"refusal with a reason", running, about("cp-1", refuse(codes.FailedPrecondition, fault.NotRunning, nil, "cp-1 is 1 STOPPED")), 1,
			"phonectl: cp-1 is 1 STOPPED\n  power it on: `phonectl on cp-1`\n"},
		{"refusal about nobody", running, refuse(codes.FailedPrecondition, fault.NotRunning, nil, "it is off"), 1,
			"phonectl: it is off\n  power it on: `phonectl on ID`\n"},
		{"busy with an operation", running, refuse(codes.FailedPrecondition, fault.Busy, map[string]string{"operation_id": "op-3"}, "busy"), 1,
			"phonectl: busy\n  wait for what is under way: `phonectl ops wait op-3`\n"},
		{"busy", running, refuse(codes.FailedPrecondition, fault.Busy, nil, "busy"), 1, "phonectl: busy\n  see what is under way: `phonectl ops ls --running`\n"},
		{"a reason of a newer agent", running, refuse(codes.FailedPrecondition, "MOON_PHASE", nil, "not today"), 1, "phonectl: not today\n"},
		{"no role", running, status.Error(codes.PermissionDenied, "client/x has role viewer"), 1,
			"phonectl: client/x has role viewer\n  ask an admin of the host for the role, in the table [access] of /etc/phonehost/phonehostd.toml\n"},
		{"older agent", running, status.Error(codes.Unimplemented, "unknown method Fly"), 1,
			"phonectl: unknown method Fly\n  the agent is older than this phonectl: `phonectl version` compares them\n"},
		{"lost agent", running, status.Error(codes.Unavailable, "EOF"), 1,
			"phonectl: the agent is gone or does not answer: EOF\n  see whether the agent and containerd are up: `systemctl status phonehostd containerd`\n"},
		{"no message", running, status.Error(codes.Internal, ""), 1, "phonectl: Internal\n"},
		{"a message that steers terminals", running, status.Error(codes.Internal, "\x1b[2J"), 1, "phonectl: \\x1b[2J\n"},
		{"Ctrl-C", canceled, status.Error(codes.Canceled, "context canceled"), 1, "phonectl: interrupted\n"},
		{"Ctrl-C here", canceled, fmt.Errorf("input: %w", context.Canceled), 1, "phonectl: interrupted\n"},
		{"canceled by the agent", running, status.Error(codes.Canceled, "the viewer has left"), 1, "phonectl: the viewer has left\n"},
		{"time is up", late, status.Error(codes.DeadlineExceeded, "context deadline exceeded"), 1, "phonectl: not done within --timeout 1s\n"},
		{"time is up, the agent saw it first", late, status.Error(codes.Canceled, "RST_STREAM"), 1, "phonectl: not done within --timeout 1s\n"},
		{"a limit of the agent's own", running, status.Error(codes.DeadlineExceeded, "boot took too long"), 1, "phonectl: boot took too long\n"},
		{"an error of this side", running, fmt.Errorf("open x: %w", os.ErrNotExist), 1, "phonectl: open x: file does not exist\n"},
		{"a class at the end", running, fmt.Errorf("socket x does not exist: %w", errdefs.ErrNotFound), 1, "phonectl: socket x does not exist\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			a := newApp(Config{Stderr: &stderr})
			a.globals.Timeout = time.Second
			if code := a.exitCode(tt.ctx, tt.err); code != tt.code || stderr.String() != tt.want {
				t.Errorf("exit code %d and %q, want %d and %q", code, &stderr, tt.code, tt.want)
			}
		})
	}
}

// Every command that a remedy names is one that phonectl has.
func TestRemediesNameRealCommands(t *testing.T) {
	texts := []string{seeWhy}
	for _, text := range remedies {
		texts = append(texts, text)
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		texts = append(texts, remedyForCode(code))
	}
	checked := 0
	for _, text := range texts {
		for i, span := range strings.Split(text, "`") {
			args, ok := strings.CutPrefix(span, "phonectl ")
			if i%2 == 0 || !ok {
				continue
			}
			checked++
			var root commandLine
			parser, exited, err := newParser(&root, newApp(Config{Stdout: new(bytes.Buffer), Stderr: new(bytes.Buffer)}))
			if err != nil {
				t.Fatal(err)
			}
			_, err = parser.Parse(strings.Fields(args))
			missing := err != nil && strings.HasPrefix(err.Error(), "expected \"<") // an argument that the text leaves to the reader
			if err != nil && !missing && !*exited {
				t.Errorf("`%s`: %v", span, err)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d commands were found", checked)
	}
	if errors.Is(about("x", nil), errStopped) || about("x", nil) != nil {
		t.Error("no error became one")
	}
}
