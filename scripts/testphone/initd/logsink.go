package initd

import (
	"fmt"
	"net"
	"os"

	"github.com/phonehost/phonehost/scripts/testphone/logd"
)

// listenLog takes what programs send to Android's log socket and prints it.
func (p *phone) listenLog() error {
	os.Remove(logSocket)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: logSocket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("log socket: %w", err)
	}
	if err := os.Chmod(logSocket, 0o666); err != nil {
		return fmt.Errorf("log socket: %w", err)
	}
	go func() {
		buf := make([]byte, logd.MaxRecord)
		for {
			n, _, err := conn.ReadFromUnix(buf)
			if err != nil {
				p.out.printf("log socket: %v", err)
				return
			}
			record, err := logd.Parse(buf[:n])
			if err != nil {
				continue
			}
			for _, line := range record.Lines() {
				p.out.print(line)
			}
		}
	}()
	return nil
}
