package socket

import (
	"context"
	"time"
)

// PINRequest is a command with a PIN that the user types on the reader.
type PINRequest struct {
	Timeout time.Duration // for the user; 0: the reader's default
	Message string        // prompt; empty: the reader's default
	ASCII   bool          // PIN digits as characters, otherwise packed BCD
	Length  int           // of a fixed-length PIN, 1 to 15; 0: variable
	Offset  int           // of the PIN in the APDU, from 0
	APDU    []byte
}

// Verify runs a PIN command on the reader's keypad and returns the card's
// response. A wrong PIN is a response, not an error.
func (c *Client) Verify(ctx context.Context, slot int, r PINRequest) ([]byte, error) {
	return c.pin(ctx, "verify PIN", CmdVerify, slot, r)
}

// ChangePIN asks the keypad to change a PIN. C OpenCT's handler answers
// InvalidCmd.
func (c *Client) ChangePIN(ctx context.Context, slot int, r PINRequest) ([]byte, error) {
	return c.pin(ctx, "change PIN", CmdChangePIN, slot, r)
}

func (c *Client) pin(ctx context.Context, op string, cmd Command, slot int, r PINRequest) ([]byte, error) {
	if r.Length < 0 || r.Length > 15 || r.Offset < 0 || r.Offset > 254 || len(r.APDU) == 0 {
		return nil, opError(op, InvalidArg)
	}
	data := make([]byte, 2, 2+len(r.APDU))
	data[0] = byte(r.Length << 4)
	if r.ASCII {
		data[0] |= 1
	}
	data[1] = byte(r.Offset + 1)
	data = append(data, r.APDU...)
	return c.keypad(ctx, op, cmd, slot, r.Timeout, r.Message, data)
}

// Keypad is Verify or ChangePIN, cmd, with PIN_DATA that another client has made.
func (c *Client) Keypad(ctx context.Context, cmd Command, slot int, timeout time.Duration, message string, data []byte) ([]byte, error) {
	return c.keypad(ctx, "PIN entry", cmd, slot, timeout, message, data)
}

func (c *Client) keypad(ctx context.Context, op string, cmd Command, slot int, timeout time.Duration, message string, data []byte) (resp []byte, err error) {
	ask := prompt(timeout, message)
	err = c.call(ctx, op, cmd, slot, func(b *Builder) {
		if ask != nil {
			ask(b)
		}
		b.Bytes(TagPINData, data)
	}, response(&resp))
	return resp, err
}
