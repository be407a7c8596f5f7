package proto

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// BenchmarkT1 is one APDU and its echo over a card in memory.
func BenchmarkT1(b *testing.B) {
	for _, n := range []int{5, 255} {
		for _, size := range []int{32, 254} {
			b.Run(fmt.Sprintf("%d bytes in blocks of %d", n, size), func(b *testing.B) {
				apdu := make([]byte, n)
				apdu[3] = 1
				e := NewT1(newEcho(append(apdu[:n:n], 0x90, 0x00), size), T1Params{IFSC: size, IFSD: size})
				resp := make([]byte, 0, 300)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					got, err := e.Transmit(context.Background(), apdu, resp)
					if err != nil || len(got) != n+2 {
						b.Fatalf("% X, %v", got, err)
					}
				}
			})
		}
	}
}

// newEcho is a card that acknowledges and answers without looking, so that
// the benchmark measures the engine.
func newEcho(resp []byte, size int) *echoT1 {
	return &echoT1{resp: resp, size: size}
}

type echoT1 struct {
	resp   []byte
	size   int
	ns, nr byte
	at     int
	buf    [t1MaxBlock]byte
	reply  []byte
}

func (c *echoT1) Send(_ context.Context, block []byte) error {
	pcb := block[1]
	if pcb&0x80 == 0 {
		c.nr ^= 1
		if pcb&pcbIMore != 0 {
			c.reply = t1Plain.encode(c.buf[:], pcbR|c.nr*pcbRSeq, nil)
			return nil
		}
		c.at = 0
	}
	end := min(c.at+c.size, len(c.resp))
	out := c.ns * pcbISeq
	c.ns ^= 1
	if end < len(c.resp) {
		out |= pcbIMore
	}
	c.reply = t1Plain.encode(c.buf[:], out, c.resp[c.at:end])
	c.at = end
	return nil
}

func (c *echoT1) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	return copy(buf, c.reply), nil
}
