package soak

import (
	"context"
	"fmt"
	"strings"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// appPackage is the app that is installed, started, stopped and removed.
const appPackage = "com.example.soak"

// appActions are the operations on apps of running phones.
func appActions() []action {
	type ctx = context.Context
	type op = *phonehostv1.Operation
	return []action{
		{name: "install_app", from: running, to: running, check: checkInstalled, ask: askInstall},
		{name: "uninstall_app", from: running, to: running, prepare: haveApp, check: checkRemoved, ask: func(x ctx, c call) (op, error) {
			return of(c.apps().UninstallApp(x, &phonehostv1.UninstallAppRequest{PhoneIds: []string{c.id}, RequestId: c.request, Package: appPackage}))
		}},
		{name: "start_app", from: running, to: running, prepare: haveAppStopped, check: checkAppRuns(true), ask: func(x ctx, c call) (op, error) {
			return of(c.apps().StartApp(x, &phonehostv1.StartAppRequest{PhoneIds: []string{c.id}, RequestId: c.request, Package: appPackage}))
		}},
		{name: "stop_app", from: running, to: running, prepare: haveAppStarted, check: checkAppRuns(false), ask: func(x ctx, c call) (op, error) {
			return of(c.apps().StopApp(x, &phonehostv1.StopAppRequest{PhoneIds: []string{c.id}, RequestId: c.request, Package: appPackage}))
		}},
	}
}

func (c call) apps() phonehostv1.AppServiceClient {
	return phonehostv1.NewAppServiceClient(c.h.api.Control())
}

// haveApp installs the app unless it is there.
func haveApp(ctx context.Context, c call) error {
	out, err := c.shell(ctx, "pm list packages "+appPackage)
	if err != nil || strings.Contains(out, "package:"+appPackage) {
		return err
	}
	c.request += "-app"
	op, err := askInstall(ctx, c)
	if err == nil {
		op, err = c.h.finish(ctx, op.GetId())
	}
	if err == nil && op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		err = fmt.Errorf("install the app: %v", op)
	}
	return err
}

func haveAppStopped(ctx context.Context, c call) error {
	err := haveApp(ctx, c)
	if err == nil {
		_, err = c.shell(ctx, "am force-stop "+appPackage)
	}
	return err
}

func haveAppStarted(ctx context.Context, c call) error {
	err := haveApp(ctx, c)
	if err == nil {
		_, err = c.shell(ctx, "am start "+appPackage)
	}
	if err == nil {
		err = checkAppRuns(true)(ctx, c, nil)
	}
	return err
}

// askInstall installs an app, signed anew by every test process and alike for every try.
func askInstall(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	data, err := c.h.app()
	if err != nil {
		return nil, err
	}
	stream, err := phonehostv1.NewAppServiceClient(c.h.api.Media()).InstallApp(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&phonehostv1.InstallAppRequest{Message: &phonehostv1.InstallAppRequest_Start{Start: &phonehostv1.InstallAppStart{
		PhoneIds: []string{c.id}, RequestId: c.request, Apks: []*phonehostv1.ApkFile{{SizeBytes: uint64(len(data))}},
	}}})
	for len(data) > 0 && err == nil {
		n := min(len(data), 64<<10)
		err = stream.Send(&phonehostv1.InstallAppRequest{Message: &phonehostv1.InstallAppRequest_Chunk{Chunk: data[:n]}})
		data = data[n:]
	}
	return of(stream.CloseAndRecv()) // tells why a send did not succeed
}

// app is the APK that is installed, made once.
func (h *host) app() ([]byte, error) {
	if h.apk != nil {
		return h.apk, nil
	}
	key, err := apkmake.NewKey("soak")
	if err != nil {
		return nil, err
	}
	h.apk, err = apkmake.Make(apkmake.App{
		Package: appPackage, VersionCode: 1, MinSDK: 24, Label: "Soak", Activities: []string{appPackage + ".Main"}, Padding: 256 << 10,
	}, key)
	return h.apk, err
}

// checkInstalled looks for the app and for staging directories. What the installer of an agent that was killed had begun in the guest
// goes away by itself, a moment later.
func checkInstalled(ctx context.Context, c call, _ *phonehostv1.Operation) error {
	return c.soon(ctx, "pm list packages "+appPackage+"; ls /data/app; ps", "the app is installed, and no session is left", func(out string) bool {
		return strings.Contains(out, "package:"+appPackage) && !strings.Contains(out, "vmdl")
	})
}

// checkRemoved sees to it that nothing is left of the app.
func checkRemoved(ctx context.Context, c call, _ *phonehostv1.Operation) error {
	return c.soon(ctx, "pm list packages "+appPackage+"; ls /data/app /data/data", "nothing is left of the app", func(out string) bool {
		return !strings.Contains(out, appPackage)
	})
}

// checkAppRuns looks for the processes of the app.
func checkAppRuns(want bool) func(context.Context, call, *phonehostv1.Operation) error {
	return func(ctx context.Context, c call, _ *phonehostv1.Operation) error {
		return c.soon(ctx, "pidof "+appPackage+" || echo none", fmt.Sprintf("that the app runs is %v", want), func(out string) bool {
			return (strings.TrimSpace(out) != "none") == want
		})
	}
}

// soon waits until the output of a line for the guest's shell is right, and says what it should have told otherwise.
func (c call) soon(ctx context.Context, line, what string, right func(out string) bool) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for deadline := time.Now().Add(settleLimit); ; <-tick.C {
		out, err := c.shell(ctx, line)
		if err != nil || right(out) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("want that %s, and the guest says %q", what, out)
		}
	}
}
