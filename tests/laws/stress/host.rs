//! A host thread: submits, meddles with anybody's requests, pins prefixes, and reads or drops what is its own.

use super::*;

/// A request handle that several threads may use; the last one frees it.
pub struct Owned(pub AtomicPtr<astrai_request>);

impl Owned {
    pub fn get(&self) -> *mut astrai_request {
        self.0.load(SeqCst)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: nobody else has it any more.
        unsafe { astrai_request_free(self.get()) };
    }
}

/// A pinned prefix; whoever drops it frees it.
pub struct Pin(pub AtomicPtr<astrai_prefix>);

impl Drop for Pin {
    fn drop(&mut self) {
        // SAFETY: nobody else has it any more.
        unsafe { astrai_prefix_free(self.0.load(SeqCst)) };
    }
}

/// What hosts share.
#[derive(Default)]
pub struct Board {
    /// Requests that any host may cancel.
    pub requests: Mutex<Vec<Arc<Owned>>>,
    pub pins: Mutex<Vec<Pin>>,
}

pub struct Host {
    pub place: Arc<Place>,
    pub ledger: Arc<Ledger>,
    pub board: Arc<Board>,
    pub random: Random,
}

impl Host {
    pub fn work(mut self, requests: u64) {
        for _ in 0..requests {
            let submission = Submission::random(&mut self.random);
            if submission.way != Way::Pull && self.random.number(4) == 0 {
                // SAFETY: the engine is freed after all hosts have ended.
                unsafe { submission.submit(&self.place, &self.ledger, ptr::null_mut()) };
                continue;
            }
            let mut request = ptr::null_mut();
            // SAFETY: as above.
            if !unsafe { submission.submit(&self.place, &self.ledger, &mut request) } {
                std::thread::yield_now();
                continue;
            }
            let request = Arc::new(Owned(AtomicPtr::new(request)));
            if self.random.number(2) == 0 {
                self.board.requests.lock().unwrap().push(request.clone());
            }
            self.meddle();
            self.pin();
            self.use_up(&request, submission.way);
        }
    }

    /// Does something to a request of anybody's.
    fn meddle(&mut self) {
        let taken = {
            let mut board = self.board.requests.lock().unwrap();
            let len = board.len() as u64;
            if len < 4 { None } else { Some(board.swap_remove(self.random.number(len) as usize)) }
        };
        let Some(other) = taken else { return };
        let mut event = ptr::null_mut();
        // SAFETY: a live handle and a place for the event.
        unsafe {
            match self.random.number(3) {
                0 => {
                    assert_eq!(astrai_request_cancel(other.get(), ptr::null_mut()), ASTRAI_OK);
                    self.ledger.cancelled.fetch_add(1, SeqCst);
                }
                1 => assert_ne!(astrai_request_id(other.get()), 0),
                _ => {
                    let status = astrai_request_wait(other.get(), 0, &mut event, ptr::null_mut());
                    self.ledger.busy.fetch_add(u64::from(status == ASTRAI_ERR_BUSY), SeqCst);
                    // What was taken here, its owner does not see.
                    if status == ASTRAI_OK && !event.is_null() {
                        astrai_event_free(event);
                    }
                }
            }
        }
    }

    /// Now and then pins what prompts begin with, or lets go of what anybody pinned, ready or not.
    fn pin(&mut self) {
        match self.random.number(16) {
            0 => {
                let tokens: Vec<i32> = (0..1 + self.random.number(30) as i32).collect();
                let (mut prompt, mut prefix, none) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut);
                // SAFETY: live handles and an array of the given length.
                let status = unsafe {
                    assert_eq!(astrai_prompt_new(&mut prompt, none()), ASTRAI_OK);
                    assert_eq!(astrai_prompt_add_tokens(prompt, tokens.as_ptr(), tokens.len(), none()), ASTRAI_OK);
                    let engine = self.place.engine.load(SeqCst);
                    let status = astrai_prefix_pin(engine, prompt, &mut prefix, none());
                    astrai_prompt_free(prompt);
                    status
                };
                assert!([ASTRAI_OK, ASTRAI_ERR_CLOSED, ASTRAI_ERR_QUEUE_FULL].contains(&status), "pin gave {status}");
                if status == ASTRAI_OK {
                    self.ledger.pinned.fetch_add(1, SeqCst);
                    self.board.pins.lock().unwrap().push(Pin(AtomicPtr::new(prefix)));
                }
            }
            1 | 2 => {
                let pin = self.board.pins.lock().unwrap().pop();
                let mut tokens = 0;
                if let (Some(pin), 0) = (pin, self.random.number(2)) {
                    // SAFETY: a live handle; its error is nobody's business.
                    unsafe { astrai_prefix_wait(pin.0.load(SeqCst), 0, &mut tokens, ptr::null_mut()) };
                }
            }
            _ => {}
        }
    }

    /// Waits, reads, cancels or just lets go.
    fn use_up(&mut self, request: &Arc<Owned>, way: Way) {
        let none = ptr::null_mut;
        let mut event = ptr::null_mut();
        // SAFETY: a live handle and a place for the event throughout.
        unsafe {
            match self.random.number(5) {
                // Let go; it is cancelled unless somebody finds it on the board.
                0 => return,
                1 => {
                    assert_eq!(astrai_request_cancel(request.get(), none()), ASTRAI_OK);
                    self.ledger.cancelled.fetch_add(1, SeqCst);
                }
                _ => {}
            }
            if way != Way::Pull {
                while astrai_request_wait(request.get(), -1, ptr::null_mut(), none()) == ASTRAI_ERR_BUSY {
                    std::thread::yield_now();
                }
                return;
            }
            let reads = self.random.number(2) == 0;
            let mut ends = 0;
            loop {
                let status = if reads {
                    astrai_request_next(request.get(), -1, &mut event, none())
                } else {
                    astrai_request_wait(request.get(), -1, &mut event, none())
                };
                match status {
                    ASTRAI_OK => {
                        assert_eq!(ends, 0, "an event after the terminal one");
                        ends += u64::from((*event).terminal != 0);
                        astrai_event_free(event);
                    }
                    ASTRAI_ERR_BUSY => std::thread::yield_now(),
                    // Whoever meddled may have taken the terminal event, but nobody gets a second one.
                    ASTRAI_END => break,
                    other => panic!("next gave {other}"),
                }
            }
            self.ledger.pulled.fetch_add(1, SeqCst);
            self.ledger.pulled_ends.fetch_add(ends, SeqCst);
        }
    }
}
