package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompletion(t *testing.T) {
	agent := withPhone(t)
	if r := runWith(t.Context(), agent, nil, "create", "cp-2", "--image", "testphone"); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	if r := runWith(t.Context(), agent, nil, "applist", "put", "games", "--deny", "com.a"); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	tests := []struct {
		line string // the last word is the one being typed
		want string
	}{
		{"re", "restart reset renew record"},
		{"sta", "status"},
		{"__", ""},
		{"image ", "pull import ls rm"},
		{"on ", "cp-1 cp-2"},
		{"on cp-1 ", "cp-1 cp-2"},
		{"on cp-1 cp-2", "cp-2"},
		{"show cp", "cp-1 cp-2"},
		{"show cp-1 ", ""},
		{"create ", ""},
		{"input ", "cp-1 cp-2"},
		{"input cp-1 s", "swipe"},
		{"input cp-1 swipe ", ""},
		{"ops wait ", "op-1"},
		{"ops show op-", "op-1"},
		{"image rm ", "testphone"},
		{"net ", "policy assign show flows denials cut restore limit test forward"},
		{"net policy ", "put get ls rm"},
		{"net policy get ", "allow-internet"},
		{"net assign ", "allow-internet"},
		{"net assign allow-internet cp", "cp-1 cp-2"},
		{"net forward add cp", "cp-1 cp-2"},
		{"net limit cp-1 --u", "--up"},
		{"create x --policy ", "allow-internet"},
		{"applist ", "put add remove enable disable rm ls show export assign unassign denials check"},
		{"applist show ", "games"},
		{"applist rm games ", "games"},
		{"applist put ", ""},
		{"applist add games ", ""},
		{"applist assign ", "games"},
		{"applist assign games cp", "cp-1 cp-2"},
		{"applist check cp", "cp-1 cp-2"},
		{"create x --app-list ", "games"},
		{"data ", "ls grow trim export import"},
		{"data trim cp-1 cp", "cp-1 cp-2"},
		{"data export cp", "cp-1 cp-2"},
		{"data export cp-1 -f ", ""},
		{"data import cp-1 ", ""},
		{"completion ", "bash zsh fish"},
		{"-o json on cp-", "cp-1 cp-2"},
		{"on -o ", "table json"},
		{"on --output j", "json"},
		{"--output=json status cp-1", "cp-1"},
		{"create x --restart-policy ", "always on-guest-reboot never"},
		{"create --im", "--image"},
		{"create cp-3 --clone-from cp", "cp-1 cp-2"},
		{"restart cp-1 --image ", "testphone"},
		{"reset --image test", "testphone"},
		{"events --phone cp-", "cp-1 cp-2"},
		{"freeze --reason ", "expired overdue violation police admin"},
		{"freeze --reason police cp-", "cp-1 cp-2"},
		{"unfreeze cp-", "cp-1 cp-2"},
		{"set cp-1 --memory ", ""},
		{"renew ", "cp-1 cp-2"},
		{"on --no-", "--no-wait"},
		{"on --no-wait cp-", "cp-1 cp-2"},
		{"image import ", ""},
		{"record cp-1 -f ", ""},
		{"exec cp-1 -- ", ""},
		{"exec cp-1 -- ls --", ""},
		{"nonsense ", ""},
		{"--host unix:///nowhere on ", ""},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			r := runWith(t.Context(), agent, nil, append([]string{"__complete", "--"}, strings.Split(tt.line, " ")...)...)
			if r.code != exitDone || r.stderr != "" {
				t.Errorf("%+v", r)
			}
			if diff := cmp.Diff(strings.Fields(tt.want), strings.Fields(r.stdout)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
