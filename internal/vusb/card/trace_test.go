package card

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// recorded is one command in a recorded conversation, with the parts of its
// response put together.
type recorded struct {
	reset bool // not a command: the card was reset
	apdu  []byte
	data  []byte
	sw    uint16
}

// readRecording takes the card's commands out of what a client and the daemon
// said to each other on a socket.
func readRecording(t *testing.T, path string) []recorded {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []recorded
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct{ Dir, Hex string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(line.Hex)
		if err != nil {
			t.Fatal(err)
		}
		const header = 12 // then command and unit, or an answer's arguments
		switch {
		case line.Dir == "request" && b[header] == 0x10:
			all = append(all, recorded{reset: true})
		case line.Dir == "request" && b[header] == 0x21: // TRANSACT, argument C4 with 2-byte length
			apdu := b[header+5:]
			if apdu[1] != insGetResponse {
				all = append(all, recorded{apdu: apdu})
			}
		case line.Dir == "answer" && len(b) > header && b[header] == 0x45: // response, 2-byte length
			r := &all[len(all)-1]
			n := len(b) - 2
			r.data = append(r.data, b[header+3:n]...)
			r.sw = uint16(b[n])<<8 | uint16(b[n+1])
		}
	}
	return all
}

// TestOpenSCRecordings sends a PIV card what OpenSC 0.23 sent to another one,
// and compares: the same status words, objects with the same outer tag. What
// has to differ - keys, numbers, names - is checked for what it must be.
func TestOpenSCRecordings(t *testing.T) {
	tests := []struct {
		file       string
		commands   int
		signatures int
	}{
		{"testdata/opensc-tool-name.jsonl", 9, 0},
		{"testdata/opensc-pkcs11-sign.jsonl", 26, 1},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			p := newTestPIV(t, nil)
			certs := map[byte]*x509.Certificate{}
			for _, k := range pivKinds() {
				ask(t, p, selectPIV)
				certs[k.ref] = certificate(t, p, k)
			}
			commands, signatures := 0, 0
			for _, r := range readRecording(t, tt.file) {
				if r.reset {
					p.Reset()
					continue
				}
				commands++
				data, sw := talk(t, p, r.apdu)
				if sw != r.sw {
					t.Fatalf("% X: %04X, the other card said %04X", r.apdu, sw, r.sw)
				}
				if len(data) == 0 != (len(r.data) == 0) {
					t.Fatalf("% X: % X, the other card sent % X", r.apdu, data, r.data)
				}
				if len(data) == 0 {
					continue
				}
				tag, _, rest, ok := nextTLV(data)
				if !ok || len(rest) != 0 || tag != r.data[0] {
					t.Fatalf("% X: % X, the other card sent % X", r.apdu, data, r.data)
				}
				switch {
				case bytes.HasSuffix(r.apdu, []byte{0x5C, 0x01, 0x7E, 0x00}):
					if !bytes.Equal(data, r.data) {
						t.Errorf("discovery object % X, the other card's is % X", data, r.data)
					}
				case r.apdu[1] == insGeneralAuthenticate:
					signatures++
					cmd, _ := parseCommand(r.apdu)
					digest, _, _ := parseTemplate(cmd.data)
					_, sig, _, _ := nextTLV(data[2:])
					if !ecdsa.VerifyASN1(certs[cmd.p2].PublicKey.(*ecdsa.PublicKey), digest, sig) {
						t.Errorf("signature % X does not verify", sig)
					}
				}
			}
			if got, want := fmt.Sprint(commands, signatures), fmt.Sprint(tt.commands, tt.signatures); got != want {
				t.Errorf("commands and signatures: %s, want %s", got, want)
			}
		})
	}
}
