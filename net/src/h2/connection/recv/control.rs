//! Frames about the connection and its windows.

use super::super::{Connection, Handler, Role};
use super::{ErrorCode, Fault, Frame, calm, frame, frame_size, limits, protocol};

const WINDOW_MAX: i64 = (1 << 31) - 1;

impl<S: Default> Connection<S> {
    pub(super) fn on_control<H: Handler<User = S>>(&mut self, frame: Frame<'_>, handler: &mut H) -> Result<(), Fault> {
        let head = frame.head;
        match head.kind {
            frame::WINDOW_UPDATE => self.on_window_update(frame),
            frame::SETTINGS => self.on_settings(frame),
            frame::PING if head.stream != 0 => Err(protocol("PING on a stream")),
            frame::PING => match frame.payload().try_into() {
                Ok(payload) => self.on_ping(head.has(frame::ACK), payload),
                Err(_) => Err(frame_size("PING is not of 8 octets")),
            },
            frame::GOAWAY if head.stream != 0 => Err(protocol("GOAWAY on a stream")),
            frame::GOAWAY => match frame.payload() {
                [s3, s2, s1, s0, c3, c2, c1, c0, debug @ ..] => {
                    let last_stream = u32::from_be_bytes([*s3, *s2, *s1, *s0]) & 0x7fff_ffff;
                    self.on_goaway(last_stream, u32::from_be_bytes([*c3, *c2, *c1, *c0]), debug, handler)
                }
                _ => Err(frame_size("GOAWAY is shorter than 8 octets")),
            },
            frame::PRIORITY if head.stream == 0 => Err(protocol("PRIORITY on stream 0")),
            // Section 5.3.2: deprecated. A wrong length is a stream error, but there may be no stream to reset.
            frame::PRIORITY if head.len != 5 && self.is_open(head.stream) => {
                Err(Fault::Stream(head.stream, ErrorCode::FrameSizeError))
            }
            frame::PUSH_PROMISE => Err(protocol("PUSH_PROMISE, though nobody may push here")),
            // Section 4.1: unknown types are ignored.
            _ => self.count_empty(),
        }
    }

    /// Source: RFC 9113 section 6.9.
    fn on_window_update(&mut self, frame: Frame<'_>) -> Result<(), Fault> {
        let id = frame.head.stream;
        let increment = number(frame, "WINDOW_UPDATE is not of 4 octets")? & 0x7fff_ffff;
        if increment < limits::WINDOW_INCREMENT_SMALL && !self.small_increments.take(self.now_ns) {
            return Err(calm("too many small window updates"));
        }
        if id == 0 {
            if increment == 0 {
                return Err(protocol("the window of the connection is opened by 0"));
            }
            self.send_window += increment as i64;
            if self.send_window > WINDOW_MAX {
                return Err(Fault::Connection(
                    ErrorCode::FlowControlError,
                    "the window of the connection overflows",
                ));
            }
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(protocol("WINDOW_UPDATE on an idle stream"));
        }
        let Some(slot) = self.streams.find(id) else {
            return self.count_empty();
        };
        if increment == 0 {
            return Err(Fault::Stream(id, ErrorCode::ProtocolError));
        }
        let stream = self.streams.get(slot);
        stream.send_window += increment as i64;
        if stream.send_window > WINDOW_MAX {
            return Err(Fault::Stream(id, ErrorCode::FlowControlError));
        }
        self.make_ready(slot);
        Ok(())
    }

    /// Source: RFC 9113 section 6.5.
    fn on_settings(&mut self, frame: Frame<'_>) -> Result<(), Fault> {
        let head = frame.head;
        if head.stream != 0 {
            return Err(protocol("SETTINGS on a stream"));
        }
        if head.has(frame::ACK) {
            if head.len != 0 {
                return Err(frame_size("the answer to SETTINGS is not empty"));
            }
            self.on_settings_taken();
            return self.count_empty();
        }
        let (settings, rest) = frame.payload().as_chunks::<6>();
        if !rest.is_empty() {
            return Err(frame_size("SETTINGS is not of 6 octets each"));
        }
        if !self.settings_frames.take(self.now_ns) {
            return Err(calm("too many SETTINGS"));
        }
        self.settings_awaited = false;
        let window_before = self.peer_initial_window;
        for &[i1, i0, v3, v2, v1, v0] in settings {
            self.on_setting(u16::from_be_bytes([i1, i0]), u32::from_be_bytes([v3, v2, v1, v0]))?;
        }
        // Once per frame, not per setting: a frame may repeat the setting 2730 times.
        self.move_windows(self.peer_initial_window - window_before)?;
        frame::put_head(frame::SETTINGS, frame::ACK, 0, 0, &mut self.out);
        self.count_control()
    }

    /// The peer goes by our SETTINGS from here on.
    ///
    /// Source: RFC 9113 sections 6.5.3 and 6.9.2.
    fn on_settings_taken(&mut self) {
        let change = self.limits.stream_window_bytes as i64 - self.stream_window;
        self.stream_window += change;
        if change != 0 {
            for slot in self.streams.slots() {
                self.streams.get(slot).recv_window += change;
            }
        }
    }

    /// Source: RFC 9113 section 6.5.2.
    fn on_setting(&mut self, id: u16, value: u32) -> Result<(), Fault> {
        match id {
            frame::SETTING_HEADER_TABLE_SIZE => self.encoder.allow_capacity(value),
            frame::SETTING_ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                return Err(protocol("SETTINGS_ENABLE_PUSH has a forbidden value"));
            }
            frame::SETTING_MAX_CONCURRENT_STREAMS => self.peer_streams_max = value,
            frame::SETTING_INITIAL_WINDOW_SIZE if value as i64 > WINDOW_MAX => {
                return Err(Fault::Connection(
                    ErrorCode::FlowControlError,
                    "SETTINGS_INITIAL_WINDOW_SIZE is too large",
                ));
            }
            frame::SETTING_INITIAL_WINDOW_SIZE => self.peer_initial_window = value as i64,
            frame::SETTING_MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                return Err(protocol("SETTINGS_MAX_FRAME_SIZE is out of range"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Source: RFC 9113 section 6.9.2.
    fn move_windows(&mut self, change: i64) -> Result<(), Fault> {
        if change == 0 {
            return Ok(());
        }
        for slot in self.streams.slots() {
            let stream = self.streams.get(slot);
            stream.send_window += change;
            if stream.send_window > WINDOW_MAX {
                return Err(Fault::Connection(
                    ErrorCode::FlowControlError,
                    "SETTINGS_INITIAL_WINDOW_SIZE makes the window of a stream overflow",
                ));
            }
            self.make_ready(slot);
        }
        Ok(())
    }
}

/// The payload of a frame that is one number.
pub(super) fn number(frame: Frame<'_>, wrong_size: &'static str) -> Result<u32, Fault> {
    frame
        .payload()
        .try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| frame_size(wrong_size))
}
