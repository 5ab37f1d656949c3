package system

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// activityCommands are those of `am` and `cmd activity`.
var activityCommands = map[string]handler{
	"start": amStart, "start-activity": amStart, "start-service": amStartService, "startservice": amStartService, "broadcast": amBroadcast,
	"force-stop": amForceStop, "kill": amForceStop, "get-current-user": amCurrentUser,
}

// component is the name of a class in a package.
type component struct{ pkg, class string }

// parseComponent reads PKG/CLASS, where the class may be short.
func parseComponent(text string) (component, bool) {
	pkg, class, ok := strings.Cut(text, "/")
	if !ok || pkg == "" || class == "" {
		return component{}, false
	}
	if strings.HasPrefix(class, ".") {
		class = pkg + class
	}
	return component{pkg, class}, true
}

// short is a component in short form.
func short(pkg, class string) string {
	if rest, ok := strings.CutPrefix(class, pkg+"."); ok {
		return pkg + "/." + rest
	}
	return pkg + "/" + class
}

// intent is what the options of am describe.
type intent struct {
	action, data, pkg string
	categories        []string
	component         component
	extras            map[string]string
	user              int
	wait, stop        bool
}

// option takes one option. more is false when there is none.
func (in *intent) option(sh *shell) (more bool, err error) {
	opt, ok := sh.option()
	if !ok {
		return false, nil
	}
	switch opt {
	case "-a":
		in.action, err = sh.value(opt)
	case "-d":
		in.data, err = sh.value(opt)
	case "-c":
		var c string
		c, err = sh.value(opt)
		in.categories = append(in.categories, c)
	case "-p":
		in.pkg, err = sh.value(opt)
	case "-n":
		var text string
		if text, err = sh.value(opt); err == nil {
			if in.component, ok = parseComponent(text); !ok {
				err = illegalArgument("Bad component name: %s", text)
			}
		}
	case "-e", "--es", "--ei", "--ez", "--el":
		err = in.extra(sh, opt)
	case "-W":
		in.wait = true
	case "-S":
		in.stop = true
	case "--user":
		if in.user, err = sh.user(); err == nil {
			err = sh.checkUser(in.user)
		}
	case "-f", "-t", "--display", "--windowingMode":
		_, err = sh.value(opt)
	case "-D", "-N", "--activity-clear-top", "--activity-new-task", "--foreground":
	default:
		err = illegalArgument("Unknown option: %s", opt)
	}
	return true, err
}

// extra takes a name and a value.
func (in *intent) extra(sh *shell, opt string) error {
	name, err := sh.value(opt)
	if err != nil {
		return err
	}
	value, err := sh.value(opt)
	if err != nil {
		return err
	}
	if opt == "--ei" || opt == "--el" {
		if _, err := strconv.ParseInt(value, 0, 64); err != nil {
			return exception{"java.lang.NumberFormatException", `For input string: "` + value + `"`}
		}
	}
	if in.extras == nil {
		in.extras = map[string]string{}
	}
	in.extras[name] = value
	return nil
}

// target takes the argument after the options: a component, a URI, or a package, of which the launcher's activity is meant.
func (in *intent) target(sh *shell) {
	text, ok := sh.next()
	switch {
	case !ok:
	case strings.Contains(text, ":"):
		in.data = text
	case strings.Contains(text, "/"):
		in.component, _ = parseComponent(text)
	default:
		in.action, in.pkg, in.categories = "android.intent.action.MAIN", text, []string{"android.intent.category.LAUNCHER"}
	}
}

// readIntent reads all options and the target.
func readIntent(sh *shell) (in intent, err error) {
	for more := true; more; {
		if more, err = in.option(sh); err != nil {
			return in, err
		}
	}
	in.target(sh)
	return in, nil
}

// String is the intent as Intent.toString prints it.
func (in intent) String() string {
	s := "Intent {"
	if in.action != "" {
		s += " act=" + in.action
	}
	if len(in.categories) > 0 {
		s += " cat=[" + strings.Join(in.categories, ",") + "]"
	}
	if in.data != "" {
		s += " dat=" + in.data
	}
	if in.pkg != "" {
		s += " pkg=" + in.pkg
	}
	if in.component.pkg != "" {
		s += " cmp=" + short(in.component.pkg, in.component.class)
	}
	if len(in.extras) > 0 {
		s += " (has extras)"
	}
	return s + " }"
}

// suspendedActivity is what Android shows in place of a suspended app.
var suspendedActivity = component{"android", "com.android.internal.app.SuspendedAppActivity"}

func amStart(ctx context.Context, sh *shell) error {
	in, err := readIntent(sh)
	if err != nil {
		return err
	}
	if in.component.pkg == "" && in.pkg == "" && in.data == "" && in.action == "" {
		return illegalArgument("No intent supplied")
	}
	a, user := sh.server.activities, max(in.user, 0)
	if in.stop {
		a.stop(in.component.pkg+in.pkg, user)
	}
	sh.printf("Starting: %v\n", in)
	begin := time.Now()
	p, class, err := sh.server.resolve(in)
	switch {
	case errors.Is(err, errSuspended):
		sh.waited(in, "COLD", suspendedActivity, begin)
		return nil
	case err != nil && in.component.pkg != "":
		sh.errorf("Error type 3\nError: Activity class {%s/%s} does not exist.\n", in.component.pkg, in.component.class)
		return code(1)
	case err != nil:
		sh.errorf("Error: Activity not started, unable to resolve %v\n", in)
		return code(1)
	}
	began, err := a.startActivity(ctx, p, class, user, in.extras)
	if err != nil {
		sh.errorf("Error: Activity not started: %v\n", err)
		return code(1)
	}
	if began.warm && !in.wait {
		sh.errorf("Warning: Activity not started, intent has been delivered to currently running top-most instance.\n")
	}
	if in.wait {
		if _, err := await(ctx, began.result); err != nil {
			sh.errorf("Error: Activity not started: %v\n", err)
			return code(1)
		}
		sh.waited(in, map[bool]string{true: "HOT", false: "COLD"}[began.warm], component{p.Name, class}, begin)
	}
	return nil
}

// waited prints what -W asks for.
func (sh *shell) waited(in intent, state string, c component, begin time.Time) {
	if !in.wait {
		return
	}
	ms := time.Since(begin).Milliseconds()
	sh.printf("Status: ok\nLaunchState: %s\nActivity: %s\nTotalTime: %d\nWaitTime: %d\nComplete\n", state, short(c.pkg, c.class), ms, ms)
}

func amStartService(ctx context.Context, sh *shell) error {
	in, err := readIntent(sh)
	if err != nil {
		return err
	}
	sh.printf("Starting service: %v\n", in)
	err = sh.server.activities.startService(ctx, in.component.pkg, in.component.class, max(in.user, 0), in.extras)
	switch {
	case errors.Is(err, errNoPackage) || errors.Is(err, errNoClass):
		sh.errorf("Error: Not found; no service started.\n")
		return code(255)
	case err != nil:
		sh.errorf("Error: %v\n", err)
		return code(255)
	}
	return nil
}

func amBroadcast(ctx context.Context, sh *shell) error {
	in, err := readIntent(sh)
	if err != nil {
		return err
	}
	sh.printf("Broadcasting: %v\n", in)
	m, err := sh.server.activities.broadcast(ctx, in.component.pkg, in.component.class, max(in.user, 0), in.extras)
	switch {
	case errors.Is(err, errNoPackage) || errors.Is(err, errNoClass) || errors.Is(err, errSuspended):
		sh.printf("Broadcast completed: result=0\n") // nobody received it
	case err != nil:
		sh.errorf("Error: %v\n", err)
		return code(1)
	default:
		sh.printf("Broadcast completed: result=%d, data=\"%s\"\n", m.Code, m.Data)
	}
	return nil
}

func amForceStop(_ context.Context, sh *shell) error {
	user := allUsers
	for {
		opt, ok := sh.option()
		if !ok {
			break
		}
		var err error
		if opt != "--user" {
			return illegalArgument("Unknown option: %s", opt)
		}
		if user, err = sh.user(); err != nil {
			return err
		}
	}
	pkg, err := sh.value("force-stop")
	if err != nil {
		return err
	}
	sh.server.activities.stop(pkg, user)
	return nil
}

func amCurrentUser(_ context.Context, sh *shell) error {
	sh.printf("0\n")
	return nil
}
