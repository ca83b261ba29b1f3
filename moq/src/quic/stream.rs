//! Messages and objects on QUIC streams.

use crate::plane::PlaneError;
use crate::wire::{Message, Reader, WireError, reset};
use bytes::{Buf as _, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

/// Bytes asked for at once.
const READ: usize = 64 << 10;
/// Fields before a payload: names, parameters, properties. Nothing valid is longer.
const FIELDS: usize = 128 << 10;

/// A stream that values are decoded from.
#[derive(Debug)]
pub(super) struct StreamReader {
    stream: RecvStream,
    held: BytesMut,
}

impl StreamReader {
    pub(super) fn new(stream: RecvStream) -> StreamReader {
        StreamReader { stream, held: BytesMut::new() }
    }

    /// One value; none: the stream ended before it began.
    pub(super) async fn decode<T>(
        &mut self,
        mut decode: impl FnMut(&mut Reader<'_>) -> Result<T, WireError>,
    ) -> Result<Option<T>, PlaneError> {
        loop {
            if !self.held.is_empty() {
                let r = &mut Reader::new(&self.held);
                match decode(r) {
                    Ok(value) => {
                        let used = r.consumed();
                        self.held.advance(used);
                        return Ok(Some(value));
                    }
                    Err(WireError::Short) if self.held.len() > FIELDS => {
                        return Err(WireError::violation("fields without end").into());
                    }
                    Err(WireError::Short) => {}
                    Err(violation) => return Err(violation.into()),
                }
            }
            match self.stream.read_chunk(READ, true).await.map_err(read_error)? {
                Some(chunk) => self.held.extend_from_slice(&chunk.bytes),
                None if self.held.is_empty() => return Ok(None),
                None => return Err(WireError::violation("stream ends inside a value").into()),
            }
        }
    }

    /// The next message; none: the stream ended.
    pub(super) async fn message(&mut self) -> Result<Option<Message>, PlaneError> {
        self.decode(Message::decode).await
    }

    /// `len` bytes of payload. The caller has checked `len` against its limit.
    pub(super) async fn payload(&mut self, len: usize) -> Result<Bytes, PlaneError> {
        let mut payload = BytesMut::with_capacity(len);
        let held = self.held.len().min(len);
        payload.extend_from_slice(&self.held.split_to(held));
        while payload.len() < len {
            let chunk = self.stream.read_chunk(len - payload.len(), true).await.map_err(read_error)?;
            let chunk = chunk.ok_or(WireError::violation("stream ends inside a payload"))?;
            payload.extend_from_slice(&chunk.bytes);
        }
        Ok(payload.freeze())
    }

    /// Reads and throws away.
    pub(super) async fn discard(&mut self) -> Result<(), PlaneError> {
        self.held.clear();
        while self.stream.read_chunk(READ, true).await.map_err(read_error)?.is_some() {}
        Ok(())
    }

    pub(super) fn stop(&mut self, code: u32) {
        // An error says that the stream is over already.
        let _ = self.stream.stop(VarInt::from_u32(code));
    }
}

/// Our half of a request stream and the peer's. Dropped: the request is cancelled (draft-18 section 3.3.2).
#[derive(Debug)]
pub(super) struct RequestStream {
    pub(super) send: SendStream,
    pub(super) recv: StreamReader,
    finished: bool,
}

impl RequestStream {
    pub(super) fn new(send: SendStream, recv: RecvStream) -> RequestStream {
        RequestStream { send, recv: StreamReader::new(recv), finished: false }
    }

    pub(super) async fn write(&mut self, message: &Message) -> Result<(), PlaneError> {
        write(&mut self.send, message).await
    }

    /// Writes the last message and closes our half.
    pub(super) async fn write_last(&mut self, message: &Message) -> Result<(), PlaneError> {
        self.write(message).await?;
        self.finish();
        Ok(())
    }

    /// Closes our half.
    pub(super) fn finish(&mut self) {
        self.finished = true;
        finish(&mut self.send);
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.finished {
            // An error says that the stream is over already.
            let _ = self.send.reset(VarInt::from_u32(reset::CANCELLED));
        }
        self.recv.stop(reset::CANCELLED);
    }
}

pub(super) async fn write(send: &mut SendStream, message: &Message) -> Result<(), PlaneError> {
    tracing::trace!(message = message.name(), stream = %send.id(), "moq: sent");
    send.write_all(&message.encode()?).await.map_err(write_error)
}

/// Closes a stream cleanly. A stream that is closed already stays so.
pub(super) fn finish(send: &mut SendStream) {
    let _ = send.finish();
}

pub(super) fn read_error(e: ReadError) -> PlaneError {
    match e {
        ReadError::Reset(code) => PlaneError::Reset(code.into_inner()),
        other => PlaneError::Closed(other.to_string()),
    }
}

pub(super) fn write_error(e: WriteError) -> PlaneError {
    match e {
        WriteError::Stopped(code) => PlaneError::Reset(code.into_inner()),
        other => PlaneError::Closed(other.to_string()),
    }
}
