//! The ways through one function.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory};
use profiler_ebpf::wire::{Rule, cfa};

use super::{
    Hole, Known, at, is_stop,
    state::{SP, State, Value, number},
};
use crate::unwind::rule::Rules;

/// The most blocks of a function.
const MAX_BLOCKS: usize = 1 << 14;

/// A function that does not keep to the convention.
#[derive(Default)]
pub struct Odd {
    /// It would if its frame were larger at the beginning by this, in bytes; 0: it would not.
    pub deeper: i32,
}

/// A function whose ways are followed.
pub struct Function<'h> {
    hole: &'h Hole<'h>,
    /// What was followed before.
    known: &'h Known,
    all: &'h Rules,
    info: InstructionInfoFactory,
    /// What is known before the first instruction of each block. Another block may end with it.
    blocks: BTreeMap<u64, State>,
    /// Blocks to go on from: the first one first, so that few are followed twice.
    open: BTreeSet<u64>,
    /// Whether a way leads back to the caller.
    returns: bool,
    /// Whether one leads to another function, by a jump to a known address.
    leaves: bool,
    /// Whether one leads elsewhere with nothing on the stack, as from an interpreter's code for one
    /// bytecode to that for the next. Such code may run in a frame that is not its own.
    dispatches: bool,
}

impl<'h> Function<'h> {
    /// Nothing of it is known yet.
    pub fn new(hole: &'h Hole<'h>, known: &'h Known, all: &'h Rules) -> Self {
        let info = InstructionInfoFactory::new();
        let (blocks, open) = (BTreeMap::new(), BTreeSet::new());
        Self {
            hole,
            known,
            all,
            info,
            blocks,
            open,
            returns: false,
            leaves: false,
            dispatches: false,
        }
    }

    /// Whether it ends as functions do.
    pub fn is_function(&self) -> bool {
        self.returns || self.leaves && !self.dispatches && !self.hole.must_return
    }

    /// Follows all ways from its beginning.
    pub fn follow(&mut self, start: u64, state: &State) -> Result<(), Odd> {
        self.reach(start, state)?;
        while let Some(block) = self.open.pop_first() {
            let Some(mut state) = self.blocks.get(&block).cloned() else { continue };
            let hole = self.hole;
            let mut decoder = hole.decoder(block).ok_or(Odd::default())?;
            let end = self.end_of(block);
            let mut instruction = Instruction::default();
            loop {
                hole.step().ok_or(Odd::default())?;
                decoder.decode_out(&mut instruction);
                if instruction.is_invalid() {
                    return Err(Odd::default());
                }
                if !self.go_on(&instruction, &mut state)? {
                    break;
                }
                let next = instruction.next_ip();
                if next >= end {
                    self.reach(next, &state)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Where what begins that ends a block at the latest: another one, or what is known.
    fn end_of(&self, block: u64) -> u64 {
        let next = self.blocks.range(block + 1..).next().map(|(next, _)| *next);
        let known = self.known.range(block..).next().map(|(known, _)| *known);
        next.into_iter().chain(known).min().unwrap_or(u64::MAX)
    }

    /// Where which rule holds, in any order.
    pub fn rules(mut self) -> Vec<(u64, u64, Rule)> {
        let mut rules: Vec<(u64, u64, Rule)> = Vec::new();
        for (block, mut state) in self.blocks.clone() {
            let end = self.end_of(block);
            for instruction in self.hole.decoder(block).iter_mut().flatten() {
                let (from, to) = (instruction.ip(), instruction.next_ip().min(end));
                if from >= end {
                    break;
                }
                if let Some(rule) = state.rule() {
                    match rules.last_mut() {
                        Some((_, behind, last)) if *behind == from && *last == rule => *behind = to,
                        _ => rules.push((from, to, rule)),
                    }
                }
                if !matches!(self.go_on(&instruction, &mut state), Ok(true)) {
                    break;
                }
            }
        }
        rules
    }

    /// Goes over an instruction, and to where it jumps; whether the next one may follow it.
    fn go_on(&mut self, instruction: &Instruction, state: &mut State) -> Result<bool, Odd> {
        let next = instruction.next_ip();
        match instruction.flow_control() {
            FlowControl::Return if state.is_back() => {
                self.returns = true;
                Ok(false)
            }
            FlowControl::Return => match state.registers[SP] {
                Value::Frame(at) => Err(Odd { deeper: at.saturating_add(8) }),
                _ => Err(Odd::default()),
            },
            FlowControl::Exception => Ok(false),
            FlowControl::UnconditionalBranch => {
                self.jump(instruction, state)?;
                Ok(false)
            }
            FlowControl::ConditionalBranch => {
                self.jump(instruction, state)?;
                Ok(true)
            }
            FlowControl::IndirectBranch => {
                let target = number(instruction.op0_register());
                let value = target.map(|target| state.registers[target]);
                let is_return =
                    value == Some(Value::Return) && state.registers[SP] == Value::Frame(0);
                self.returns |= is_return;
                self.dispatches |= !is_return && state.is_back();
                // What is behind others is in a table of jumps.
                Ok(!is_return && !state.is_back())
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                let target = instruction.near_branch_target();
                if instruction.is_call_near() && target == next {
                    // It asks for its own address.
                    state.move_stack(-8);
                } else {
                    let is_near = instruction.is_call_near() && self.hole.decoder(target).is_some();
                    state.call(is_near);
                }
                // One that does not return may be the last instruction.
                Ok(!self.hole.is_symbol(next))
            }
            _ if is_stop(instruction) => Ok(false),
            _ => {
                state.step(instruction, &mut self.info);
                Ok(true)
            }
        }
    }

    /// Follows a jump, out of the function, too.
    fn jump(&mut self, instruction: &Instruction, state: &State) -> Result<(), Odd> {
        let target = instruction.near_branch_target();
        let is_inside = self.hole.decoder(target).is_some();
        if is_inside && !(state.is_back() && self.hole.is_symbol(target)) {
            return self.reach(target, state);
        }
        // To another function.
        if !state.is_back() {
            return Err(Odd::default());
        }
        self.leaves = true;
        Ok(())
    }

    /// Reaches the beginning of a block.
    fn reach(&mut self, address: u64, state: &State) -> Result<(), Odd> {
        if let Some((_, rule)) = at(self.known, address) {
            // Another function's, which must agree on where the frame is.
            let frame = |rule: &Rule| (rule.cfa, rule.cfa_register, rule.cfa_offset, rule.cfa_add);
            let known = self.all.list.get(usize::from(rule));
            let own = state.rule();
            if known.map(frame) == own.as_ref().map(frame) {
                self.leaves = true;
                return Ok(());
            }
            return Err(match (known, own) {
                (Some(known), Some(own)) if (known.cfa, own.cfa) == (cfa::SP, cfa::SP) => {
                    Odd { deeper: known.cfa_offset.saturating_sub(own.cfa_offset) }
                }
                _ => Odd::default(),
            });
        }
        if let Some(block) = self.blocks.get_mut(&address) {
            if block.join(state) {
                self.open.insert(address);
            }
            return Ok(());
        }
        if self.blocks.len() >= MAX_BLOCKS {
            return Err(Odd::default());
        }
        // The block that this one is the end of ends here from now on.
        self.open.extend(self.blocks.range(..address).next_back().map(|(before, _)| *before));
        self.open.insert(address);
        self.blocks.insert(address, state.clone());
        Ok(())
    }
}
