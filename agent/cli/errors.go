package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/cli/render"
	"github.com/phonehost/phonehost/agent/fault"
)

// exitCode prints an error in words, with the command that mends it, and returns the exit code that it means.
func (a *app) exitCode(ctx context.Context, err error) int {
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		if exit.text != "" {
			a.sayf("phonectl: %s", exit.text)
		}
		return exit.code
	case errors.As(err, &usage):
		a.sayf("phonectl: %s", usage.text)
		return exitUsage
	case errors.Is(err, syscall.EPIPE):
		return exitFailed // the reader of the output has left; there is nothing to say
	}
	text, remedy := a.explain(ctx, err)
	a.sayf("phonectl: %s", text)
	if remedy != "" {
		a.sayf("  %s", remedy)
	}
	return exitFailed
}

// aboutError is an error of a request that names what the request was about, so that its remedy can name it too.
type aboutError struct {
	subject string // id of a phone, reference of an image...
	of      int    // how many phones the request was for, where it was for several
	err     error
}

func (e aboutError) Error() string { return e.err.Error() }
func (e aboutError) Unwrap() error { return e.err }

// about marks err as concerning subject; nil stays nil.
func about(subject string, err error) error {
	if err == nil {
		return nil
	}
	return aboutError{subject: subject, err: err}
}

// aboutAll is about for a request of several phones: when all of them refuse, the error is the first one's.
func aboutAll(ids []string, err error) error {
	if err == nil {
		return nil
	}
	return aboutError{subject: first(ids), of: len(ids), err: err}
}

// explain puts an error into words and finds what mends it.
func (a *app) explain(ctx context.Context, err error) (text, remedy string) {
	subject := ""
	var named aboutError
	if errors.As(err, &named) {
		subject = named.subject
	}
	var remote interface{ GRPCStatus() *status.Status }
	code := codes.Unknown
	if errors.As(err, &remote) {
		code = remote.GRPCStatus().Code()
	}
	if text := a.explainEnd(ctx, code, err); text != "" {
		return text, ""
	}
	if remote == nil {
		return fault.Words(err), ""
	}
	st := remote.GRPCStatus()
	reason, meta := reasonOf(st)
	text = render.Printable(st.Message())
	if text == "" {
		text = code.String()
	}
	if code == codes.Unavailable && reason == "" {
		text = "the agent is gone or does not answer: " + text
	}
	if named.of > 1 && refusals[code] && reason != "" {
		text = fmt.Sprintf("all %d phones refuse; the first: %s", named.of, text)
	}
	return text, remedyFor(code, reason, subject, meta)
}

// refusals are the codes with which a phone refuses a request, or is not there to take it.
var refusals = map[codes.Code]bool{codes.FailedPrecondition: true, codes.NotFound: true, codes.ResourceExhausted: true}

// explainEnd explains an error that comes of the command's own end: Ctrl-C, or --timeout, which an agent may notice first.
func (a *app) explainEnd(ctx context.Context, code codes.Code, err error) string {
	canceled := code == codes.Canceled || errors.Is(err, context.Canceled)
	late := code == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded)
	switch _, limited := ctx.Deadline(); {
	case canceled && errors.Is(ctx.Err(), context.Canceled):
		return "interrupted"
	case limited && (canceled || late):
		return fmt.Sprintf("not done within --timeout %s", a.globals.Timeout)
	}
	return ""
}

// reasonOf returns the machine-readable reason of a status and its details, or nothing.
func reasonOf(st *status.Status) (string, map[string]string) {
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == fault.Domain {
			return info.GetReason(), info.GetMetadata()
		}
	}
	return "", nil
}

// remedies name the commands that mend a refusal, by its reason (docs/api.md). {phone} is the phone that was asked about, or
// ID where it is not known.
var remedies = map[string]string{
	fault.NotRunning:      "power it on: `phonectl on {phone}`",
	fault.NotOff:          "power it off first: `phonectl off {phone}`; `phonectl rm` also has --force",
	fault.AlreadyOn:       "see what it does: `phonectl status {phone}`; to start it anew: `phonectl restart {phone}`",
	fault.Busy:            "see what is under way: `phonectl ops ls --running`",
	fault.Frozen:          "see why: `phonectl show {phone}`; let it go: `phonectl unfreeze {phone}`, or where its lease is over: `phonectl renew {phone} --expires 24h`",
	fault.LeaseExpired:    "renew it: `phonectl renew {phone} --expires 24h`",
	fault.WrongProfile:    "see which profile each image has: `phonectl image ls`",
	fault.DataNewer:       "take an image that is as new: `phonectl image ls`; or, which destroys the phone's data: `phonectl reset {phone} --image IMG`",
	fault.DataLoss:        "look at the image with e2fsck and debugfs, in a copy, or, which destroys the data: `phonectl reset {phone}`; what was found: `phonectl events --phone {phone}`",
	fault.OutOfMemory:     "give it more, such as `phonectl set {phone} --memory 2GiB`; see why: `phonectl events --phone {phone}`",
	fault.UpdateFailed:    "see what it has: `phonectl show {phone}`",
	fault.Superseded:      "see what went before it: `phonectl ops ls --phone {phone}`",
	fault.NoSuchPhone:     "see which there are: `phonectl ls`",
	fault.NoSuchImage:     "get it: `phonectl image import FILE` or `phonectl image pull NAME`; what is there: `phonectl image ls`",
	"IMAGE_IN_USE":        "see which phones name it: `phonectl ls`, and remove them: `phonectl rm ID`",
	fault.NoSuchOperation: "see which are kept: `phonectl ops ls`",
	fault.RequestIDReused: "give each request an id of its own; what that one did: `phonectl ops ls`",
	fault.PhoneExists:     "see it: `phonectl show {phone}`; remove it: `phonectl rm {phone}`",
	fault.ContainerdLost:  "containerd does not answer: `systemctl status containerd`, then `phonectl doctor`",
	fault.DiskLow:         "see how much is free: `phonectl host`; make room: `phonectl rm`, `phonectl image rm`",
	fault.NoBinder:        "see what the kernel offers: `phonectl doctor`; power a phone off: `phonectl off ID`",
	fault.JournalTrimmed:  "begin with the oldest that is kept: `phonectl events`",
	fault.JournalReset:    "the journal is younger than that number: `phonectl events`",
	fault.ShuttingDown:    "the agent is stopping: `systemctl status phonehostd`",
	"NO_SCREEN":           "the guest has drawn nothing yet; see what it does: `phonectl logs {phone}`",
	"DISPLAY_LOST":        "it is started again by itself; see why it went: `phonectl logs --display {phone}`",
	"ENCODER_FAILED":      "see why: `phonectl logs --display {phone}`, `phonectl doctor`",
	"TOO_MANY_VIEWERS":    "see how many there are: `phonectl status {phone}`",
	"APP_REFUSED":         "see what the phone's package manager says: `phonectl logs {phone}`; what is installed: `phonectl app ls {phone}`",
	"COMMAND_TIMEOUT":     "give it longer: `phonectl run --limit 1m ...`, or let it go on by itself: `phonectl run --start ...`",
	"EXIT_CODE":           "see what it printed: `phonectl ops show OPERATION`",
	"GUEST_ENDED":         "see what the phone does: `phonectl status {phone}`, `phonectl events --phone {phone}`",
	"INTERRUPTED":         "look whether it was done, and ask again if it was not",
	"TOO_MANY_JOBS":       "wait for what is under way: `phonectl ops ls --phone {phone}`",
	"NO_SUCH_FILE":        "see what is there: `phonectl exec {phone} -- ls -l DIRECTORY`",
	"NO_DATA":             "it gets its data volume when it is powered on: `phonectl on {phone}`",
	"BAD_ARCHIVE":         "archives are made by: `phonectl data export ID -f FILE`",
	"CALLER_STALLED":      "export it to a file, which takes what comes: `phonectl data export {phone} -f FILE`",
	"DATA_DAMAGED":        "export it again: `phonectl data export ID -f FILE`",
	"DATA_TOO_LARGE":      "see how large it is: `phonectl data ls {phone}`; give it more, such as `phonectl data grow {phone} 16GiB`",
	"FILE_TOO_LARGE":      "take more: `phonectl pull --max 8GiB ...`",
	"FILE_CHANGED":        "pull it again once nothing writes to it",
	fault.NetworkDisabled: "set enabled = true in [network] of /etc/phonehost/phonehostd.toml and restart the agent: `systemctl restart phonehostd`",
	fault.NetworkFailed:   "see what it has: `phonectl net show {phone}`; what the host lacks: `phonectl doctor`",
	fault.NoSuchPolicy:    "see which there are: `phonectl net policy ls`; make one: `phonectl net policy put FILE`",
	fault.AddressTaken:    "leave the choice to the agent: without --ipv4 and --ipv6 it takes one that is free",
	fault.NoFreeAddress:   "delete phones: `phonectl rm ID`; or give the host a larger pool, in [network] of /etc/phonehost/phonehostd.toml",
	fault.ForwardTaken:    "see who has it: `phonectl net forward ls`",
	fault.PortTaken:       "take another port; see which ports processes of the host have: `ss -tulnp`",
	fault.NoSuchForward:   "see which there are: `phonectl net forward ls {phone}`",
	"POLICY_IN_USE":       "give its phones another one: `phonectl net assign allow-internet ID`",
	"BAD_POLICY":          "see how one is written: `phonectl net policy put --help`",
	"TOO_MANY_POLICIES":   "see which no phone has: `phonectl net policy ls`, and remove them: `phonectl net policy rm NAME`",
	fault.NoSuchAppList:   "see which there are: `phonectl applist ls`; make one: `phonectl applist put NAME --deny PACKAGE`",
	fault.AppListTaken:    "see what it says: `phonectl applist show NAME`; move the phone: `phonectl applist assign NAME {phone} --move`",
	"APP_LIST_IN_USE":     "take its phones off it: `phonectl applist unassign ID`, or delete it all the same: `phonectl applist rm {phone} --force`",
	"APP_LIST_FAILED":     "see what the phone has: `phonectl show {phone}`; what the host lacks: `phonectl doctor`",
	"TOO_MANY_APP_LISTS":  "see which no phone is on: `phonectl applist ls`, and delete them: `phonectl applist rm NAME`",
	"STRICT_NOT_KEPT":     "see what the host lacks: `phonectl applist ls`, `phonectl doctor`; or leave out --strict: what the kernel does refuse, it refuses all the same",
	"SHARED_UID":          "name all of these packages or none of them, or accept it: --force",
	"BOOT_TIMEOUT":        seeWhy,
	"BOOT_FAILED":         seeWhy,
	"START_FAILED":        seeWhy + ", `phonectl doctor`",
	"CRASH_LOOP":          seeWhy,
	"GUEST_EXITED":        seeWhy,
}

const seeWhy = "see why: `phonectl logs {phone}`, `phonectl events --phone {phone}`"

// remedyFor names the command that mends a refusal, or is empty. Subject is what the request was about, or empty.
func remedyFor(code codes.Code, reason, subject string, meta map[string]string) string {
	if op := meta["operation_id"]; reason == fault.Busy && op != "" {
		return fmt.Sprintf("wait for what is under way: `phonectl ops wait %s`", op)
	}
	remedy, ok := remedies[reason]
	if !ok {
		return remedyForCode(code)
	}
	if subject == "" {
		subject = "ID"
	}
	return strings.ReplaceAll(remedy, "{phone}", subject)
}

// remedyForCode names what mends a refusal that gives no reason.
func remedyForCode(code codes.Code) string {
	switch code {
	case codes.PermissionDenied:
		return "ask an admin of the host for the role, in the table [access] of /etc/phonehost/phonehostd.toml"
	case codes.Unauthenticated:
		return "give a client certificate that the agent's CA has signed: --cert, --key, --ca"
	case codes.Unimplemented:
		return "the agent is older than this phonectl: `phonectl version` compares them"
	case codes.Unavailable:
		return "see whether the agent and containerd are up: `systemctl status phonehostd containerd`"
	}
	return ""
}
